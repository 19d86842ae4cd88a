"""Reads a topic from its beginning, as a downstream service would: read_committed.

Arguments: SERVERS TOPIC COUNT. Prints a JSON object per record once COUNT are there and a little longer
shows no more; fails when they do not come.
"""

import base64
import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition, KafkaError

servers, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
consumer = Consumer(
    {
        "bootstrap.servers": servers,
        "group.id": "independent-reader",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
    }
)
partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])


def ends(isolation):
    """The offset behind the last record of each partition that this isolation shows."""
    reader = Consumer({"bootstrap.servers": servers, "group.id": "independent-reader", "isolation.level": isolation})
    return {each: reader.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in partitions}


records, ended, deadline = [], set(), time.monotonic() + 60
# A record too many would come before the ends of all partitions do.
while len(records) < count or len(ended) < len(partitions):
    if time.monotonic() > deadline:
        # Where the two differ a transaction is open, and hides what comes after it.
        found = f"decided up to {ends('read_committed')}, written up to {ends('read_uncommitted')}"
        sys.exit(f"{len(records)} of {count} records after a minute; {found}")
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error():
        if message.error().code() != KafkaError._PARTITION_EOF:
            sys.exit(str(message.error()))
        ended.add(message.partition())
        continue
    ended.discard(message.partition())
    records.append(message)

for message in records:
    print(
        json.dumps(
            {
                "key": message.key().decode(),
                "headers": [[name, value.decode()] for name, value in message.headers()],
                "body": base64.b64encode(message.value()).decode(),
                "partition": message.partition(),
                "at_ms": message.timestamp()[1],
            }
        )
    )
