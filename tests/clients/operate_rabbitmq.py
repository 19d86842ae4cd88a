"""Does what an operator would do to exchanges and queues. Arguments: URI, then pairs of METHOD JSON, methods of pika's
channel with their arguments by name, such as: queue_declare '{"queue": "q", "durable": true}'.
"""

import json
import sys

import pika

uri, *calls = sys.argv[1:]
channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
for method, arguments in zip(calls[::2], map(json.loads, calls[1::2]), strict=True):
    if "properties" in arguments:
        arguments["properties"] = pika.BasicProperties(**arguments["properties"])
    getattr(channel, method)(**arguments)
channel.close()
