"""Writes notifications 1 to 4 of an instance as a bridge does to which faults come: in transactions of two, the first
two of which are aborted each time.

Arguments: SERVERS TOPIC INSTANCE.
"""

import json
import sys

from confluent_kafka import Producer

servers, topic, instance = sys.argv[1:]
kind = "incomingMessageReceived"
# Two are more than clients fetch at once: they see what was aborted before they see that it was.
body = json.dumps({"typeWebhook": kind, "filler": "x" * 600_000})
producer = Producer({"bootstrap.servers": servers, "transactional.id": topic})
producer.init_transactions(30)
for numbers in [(1, 2), (3, 4)]:
    for end in [producer.abort_transaction, producer.abort_transaction, producer.commit_transaction]:
        producer.begin_transaction()
        for number in numbers:
            attributes = {"id": f"{number}", "source": instance, "idinstance": instance, "sequence": f"{number:020}", "type": kind}
            producer.produce(topic, body, instance, headers={f"ce_{name}": value for name, value in attributes.items()})
        # What is aborted must have arrived.
        if producer.flush(30) > 0:
            sys.exit("not everything was delivered")
        end(30)
