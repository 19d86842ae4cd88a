"""Deletes a topic, and makes it anew with this many partitions, if any. Arguments: SERVERS TOPIC PARTITIONS."""

import sys
import time

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

servers, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
admin = AdminClient({"bootstrap.servers": servers})
admin.delete_topics([topic])[topic].result(timeout=30)
deadline = time.monotonic() + 30
while partitions > 0:
    # The name is free a moment later.
    try:
        admin.create_topics([NewTopic(topic, partitions)])[topic].result(timeout=30)
        break
    except KafkaException:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.05)
