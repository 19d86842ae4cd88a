"""Reads notifications from RabbitMQ and drops those it has seen: the message id is the same for the same notification.

pip install pika; python rabbitmq.py URI QUEUE
"""

import json
import sqlite3
import sys

import pika

uri, queue = sys.argv[1:]
# Where the work is kept, so that the id and the work are stored together or not at all.
database = sqlite3.connect("seen.sqlite")
database.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")

channel = pika.BlockingConnection(pika.URLParameters(uri)).channel()
channel.basic_qos(prefetch_count=100)
for method, properties, body in channel.consume(queue):
    with database:
        new = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", [properties.message_id]).rowcount
        if new:
            headers, notification = properties.headers, json.loads(body)
            print(
                headers["cloudEvents_idinstance"],
                headers["cloudEvents_sequence"],
                notification["typeWebhook"],
                flush=True,
            )
    channel.basic_ack(method.delivery_tag)
