"""Puts chosen messages of a queue, as they are, into another, which it declares, or behind themselves. What is read
stays in QUEUE. Arguments: URI QUEUE TARGET INDEX…
"""

import sys

import pika

uri, queue, target, *indices = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(uri))
reading, writing = connection.channel(), connection.channel()
messages = []
while True:
    method, properties, body = reading.basic_get(queue)
    if method is None:
        break
    messages.append((properties, body))
reading.close()  # What is not acknowledged goes back to its place.
if target != queue:
    writing.queue_declare(target, durable=True)
writing.confirm_delivery()
for index in indices:
    properties, body = messages[int(index)]
    writing.basic_publish("", target, body, properties, mandatory=True)
