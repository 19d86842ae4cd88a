"""Fails on the head of a queue again and again, as a downstream service with a fault would.

Arguments: URI QUEUE TIMES. Takes a message and hands it back, that often; ends early when it is gone for good. Prints how
often it was handed back.
"""

import json
import sys
import time

import pika

uri, queue, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
rejected, deadline = 0, time.monotonic() + 5
while rejected < times and time.monotonic() < deadline:
    method, properties, body = channel.basic_get(queue)
    if method is None:
        time.sleep(0.01)
        continue
    channel.basic_nack(method.delivery_tag, requeue=True)
    rejected, deadline = rejected + 1, time.monotonic() + 5
print(json.dumps(rejected))
