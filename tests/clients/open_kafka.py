"""Leaves a transaction open, with one record in partition 0 of a topic. The broker aborts it after so many seconds.

Arguments: SERVERS TOPIC SECONDS.
"""

import os
import sys

from confluent_kafka import Producer

servers, topic, seconds = sys.argv[1:]
settings = {"bootstrap.servers": servers, "transactional.id": f"{topic}.open", "transaction.timeout.ms": int(seconds) * 1000}
# What is not delivered by the transaction's end is given up before it.
producer = Producer(settings | {"message.timeout.ms": int(seconds) * 1000})
producer.init_transactions(30)
producer.begin_transaction()
producer.produce(topic, "x", "foreign", partition=0)
if producer.flush(30) > 0:
    sys.exit("the record was not delivered")
# Without an end of the producer, which would be one of the transaction.
os._exit(0)
