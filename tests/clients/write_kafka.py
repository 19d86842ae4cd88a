"""Writes records into partition 0 of a topic, as anybody might.

Arguments: SERVERS TOPIC RECORD..., where a RECORD is {"key": TEXT, "value": TEXT or null, "headers": {NAME: TEXT}}; the
key's letters are bytes, and a value {"bytes": COUNT} is so many letters.
"""

import json
import sys

from confluent_kafka import Producer

servers, topic, *records = sys.argv[1:]
producer = Producer({"bootstrap.servers": servers})
for record in map(json.loads, records):
    value = record["value"]
    if isinstance(value, dict):
        value = "x" * value["bytes"]
    producer.produce(topic, value, record["key"].encode("latin-1"), partition=0, headers=record.get("headers"))
if producer.flush(30) > 0:
    sys.exit("not everything was delivered")
