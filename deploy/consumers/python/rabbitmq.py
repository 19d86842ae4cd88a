"""Takes each notification from RabbitMQ into a database once, and puts aside what cannot be handled.

pip install -r requirements.txt && python rabbitmq.py; the environment that it needs: deploy/docs/consuming.md.
"""

import json
import logging
import signal
import sqlite3
import ssl
import threading
from os import environ

import pika
from pika.exceptions import AMQPError

SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT);
"""


def handle(database, attributes, body):
    """Replace this by your service's work. Write through `database`: it is committed together with the id.

    RabbitMQ hears nothing meanwhile: what takes longer than two heartbeats (a minute each) belongs in a thread.
    """
    notification = json.loads(body)
    row = [attributes["source"], attributes["id"], attributes["sequence"], attributes["type"], body.decode()]
    database.execute("INSERT INTO notifications VALUES (?, ?, ?, ?, ?)", row)
    print(attributes["idinstance"], attributes["sequence"], notification["typeWebhook"], flush=True)


def process(database, properties, body):
    attributes = {name.removeprefix("cloudEvents_"): value for name, value in (properties.headers or {}).items()}
    with database:  # One transaction.
        key = [attributes["source"], attributes["id"]]
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", key).rowcount:
            handle(database, attributes, body)


def consume(database, channel, stopping):
    channel.basic_qos(prefetch_count=100)
    for method, properties, body in channel.consume(environ["AMQP_QUEUE"], inactivity_timeout=1):
        if stopping.is_set():
            return
        if method is None:
            continue
        try:
            process(database, properties, body)
        except (sqlite3.Error, OSError):
            raise  # Not the notification's fault: it comes again after a restart.
        except Exception:
            logging.exception("put aside: %s", properties.message_id)
            channel.basic_reject(method.delivery_tag, requeue=False)  # To the queue's dead-letter exchange.
        else:
            channel.basic_ack(method.delivery_tag)


def parameters():
    parameters = pika.URLParameters(environ["AMQP_URI"])
    if authority := environ.get("AMQP_CA_FILE"):
        parameters.ssl_options = pika.SSLOptions(ssl.create_default_context(cafile=authority), parameters.host)
    return parameters


def main():
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # What it says about a lost connection, `main` says in one line.
    stopping = threading.Event()
    for number in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(number, lambda *_: stopping.set())
    database = sqlite3.connect(environ.get("DATABASE", "notifications.sqlite"))
    database.executescript(SCHEMA)
    while not stopping.is_set():
        try:
            with pika.BlockingConnection(parameters()) as connection:
                consume(database, connection.channel(), stopping)
        except AMQPError as error:
            logging.warning("connecting again: %r", error)
            stopping.wait(1)
    database.close()


if __name__ == "__main__":
    main()
