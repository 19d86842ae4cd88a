"""Declares a durable queue and binds it to everything of an exchange. Arguments: URI EXCHANGE QUEUE."""

import sys

import pika

uri, exchange, queue = sys.argv[1:]
channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
channel.queue_declare(queue, durable=True)
channel.queue_bind(queue, exchange, "#")
