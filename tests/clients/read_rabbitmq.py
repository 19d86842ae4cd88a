"""Consumes a queue until it is empty, as a downstream service would: manual acknowledgement.

Arguments: URI QUEUE COUNT. Prints a JSON object per message once COUNT are there and the queue is empty;
fails when they do not come.
"""

import base64
import json
import sys
import time

import pika

uri, queue, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
messages, deadline = [], time.monotonic() + 60
while True:
    method, properties, body = channel.basic_get(queue)
    if method is None:
        if len(messages) >= count:
            break
        if time.monotonic() > deadline:
            sys.exit(f"{len(messages)} of {count} messages after a minute")
        time.sleep(0.05)
        continue
    channel.basic_ack(method.delivery_tag)
    messages.append(
        {
            "exchange": method.exchange,
            "routing_key": method.routing_key,
            "redelivered": method.redelivered,
            "headers": properties.headers,
            "properties": {
                name: getattr(properties, name)
                for name in ("content_type", "delivery_mode", "message_id", "type", "timestamp", "app_id")
            },
            "body": base64.b64encode(body).decode(),
        }
    )

for message in messages:
    print(json.dumps(message))
