"""Reads notifications from Kafka: only those of committed transactions.

pip install confluent-kafka; python kafka.py SERVERS TOPIC GROUP
"""

import json
import sys

from confluent_kafka import Consumer, KafkaException

servers, topic, group = sys.argv[1:]
consumer = Consumer(
    {
        "bootstrap.servers": servers,
        "group.id": group,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([topic])
while True:
    message = consumer.poll(1)
    if message is None:
        continue
    if message.error():
        raise KafkaException(message.error())
    attributes = {name: value.decode() for name, value in message.headers()}
    notification = json.loads(message.value())
    print(attributes["ce_idinstance"], attributes["ce_sequence"], notification["typeWebhook"], flush=True)
    # After the work is done. Killed in between, this program reads the record again: store ce_id together with your results.
    consumer.commit(message, asynchronous=False)
