"""Waits until every replica is in sync, then prints which nodes coordinate a group and a transactional id.

Arguments: SERVERS GROUP TRANSACTIONAL_ID.
"""

import json
import sys
import time

from confluent_kafka.admin import AdminClient

servers, group, transactional_id = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": servers})


def in_sync():
    topics = admin.list_topics(timeout=30).topics.values()
    partitions = [partition for topic in topics for partition in topic.partitions.values()]
    return partitions and all(len(partition.isrs) == 3 for partition in partitions)


def leader(topic, name):
    """The leader of the partition to which the brokers hash a name, as Java hashes a string."""
    partitions = admin.list_topics(topic, timeout=30).topics[topic].partitions
    hashed = 0
    for character in name:
        hashed = (31 * hashed + ord(character)) & 0xFFFFFFFF
    return partitions[(hashed & 0x7FFFFFFF) % len(partitions)].leader


deadline = time.monotonic() + 60
while not in_sync():
    if time.monotonic() > deadline:
        sys.exit("replicas are still out of sync after a minute")
    time.sleep(0.2)
print(json.dumps({"group": leader("__consumer_offsets", group), "transaction": leader("__transaction_state", transactional_id)}))
