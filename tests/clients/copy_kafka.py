"""Copies records of a topic, in the order asked for, into one partition of a new topic.

Arguments: SERVERS FROM TO ORDER, where ORDER are places in FROM, such as 0,2,1,1.
"""

import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers, source, target, order = sys.argv[1:]
order = [int(place) for place in order.split(",")]
consumer = Consumer(
    {"bootstrap.servers": servers, "group.id": "copier", "isolation.level": "read_committed"}
)
partitions = consumer.list_topics(source, timeout=30).topics[source].partitions
consumer.assign([TopicPartition(source, partition, 0) for partition in partitions])
records, deadline = [], time.monotonic() + 60
while len(records) <= max(order):
    if time.monotonic() > deadline:
        sys.exit(f"{len(records)} records after a minute")
    record = consumer.poll(1)
    if record is not None and not record.error():
        records.append(record)

admin = AdminClient({"bootstrap.servers": servers})
for created in admin.create_topics([NewTopic(target, 1)]).values():
    created.result(timeout=30)
producer = Producer({"bootstrap.servers": servers})
for place in order:
    record = records[place]
    producer.produce(target, record.value(), record.key(), headers=record.headers())
if producer.flush(30) > 0:
    sys.exit("not everything was delivered")
