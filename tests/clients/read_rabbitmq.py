"""Consumes a queue until it is empty, as a downstream service would: manual acknowledgement.

Arguments: URI QUEUE COUNT [stream|once]. Prints a JSON object per message once COUNT are there and the queue is empty;
fails when they do not come. Of a stream it reads the first COUNT, and consumes nothing. `once`: a message whose id was
seen before is dropped, and COUNT are the others.
"""

import base64
import json
import sys
import time

import pika

uri, queue, count, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
deadline = time.monotonic() + 60


def patient():
    if time.monotonic() > deadline:
        sys.exit(f"{len(messages)} of {count} messages after a minute")


def as_json(method, properties, body):
    names = ("content_type", "delivery_mode", "message_id", "type", "timestamp", "app_id")
    return {
        "exchange": method.exchange,
        "routing_key": method.routing_key,
        "redelivered": method.redelivered,
        "headers": properties.headers,
        "properties": {name: getattr(properties, name) for name in names},
        "body": base64.b64encode(body).decode(),
    }


messages, seen = [], set()
if mode == ["stream"]:
    channel.basic_qos(prefetch_count=100)
    for method, properties, body in channel.consume(queue, arguments={"x-stream-offset": "first"}, inactivity_timeout=1):
        if method is not None:
            channel.basic_ack(method.delivery_tag)
            messages.append(as_json(method, properties, body))
        if len(messages) == count:
            break
        patient()
else:
    while True:
        method, properties, body = channel.basic_get(queue)
        if method is not None:
            channel.basic_ack(method.delivery_tag)
            if mode != ["once"] or properties.message_id not in seen:
                messages.append(as_json(method, properties, body))
            seen.add(properties.message_id)
        elif len(messages) >= count:
            break
        else:
            patient()
            time.sleep(0.05)

for message in messages:
    print(json.dumps(message, default=str))
