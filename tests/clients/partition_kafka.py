"""Adds partitions to a topic, as an operator would. Arguments: SERVERS TOPIC COUNT."""

import sys

from confluent_kafka.admin import AdminClient, NewPartitions

servers, topic, count = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": servers})
for done in admin.create_partitions([NewPartitions(topic, int(count))]).values():
    done.result(timeout=30)
