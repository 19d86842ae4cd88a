"""Takes each notification from Kafka into a database once, and puts aside what cannot be handled.

pip install -r requirements.txt && python kafka.py; the environment that it needs: deploy/docs/consuming.md.
"""

import json
import logging
import signal
import sqlite3
import threading
from os import environ

from confluent_kafka import Consumer, KafkaException, Producer

SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT);
"""


def handle(database, attributes, body):
    """Replace this by your service's work. Write through `database`: it is committed together with the id."""
    notification = json.loads(body)
    row = [attributes["source"], attributes["id"], attributes["sequence"], attributes["type"], body.decode()]
    database.execute("INSERT INTO notifications VALUES (?, ?, ?, ?, ?)", row)
    print(attributes["idinstance"], attributes["sequence"], notification["typeWebhook"], flush=True)


def process(database, message):
    attributes = {name.removeprefix("ce_"): value.decode() for name, value in message.headers() or []}
    with database:  # One transaction.
        key = [attributes["source"], attributes["id"]]
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", key).rowcount:
            handle(database, attributes, message.value())


def put_aside(producer, message, error):
    def delivered(failure, _message):
        if failure:
            raise KafkaException(failure)

    headers = [*(message.headers() or []), ("reason", repr(error))]
    topic = environ["KAFKA_DEAD_LETTER_TOPIC"]
    producer.produce(topic, message.value(), message.key(), headers=headers, on_delivery=delivered)
    producer.flush()


def connection():
    settings = {"bootstrap.servers": environ["KAFKA_BOOTSTRAP_SERVERS"]}
    if authority := environ.get("KAFKA_CA_FILE"):
        settings |= {"security.protocol": "SSL", "ssl.ca.location": authority}
    if user := environ.get("KAFKA_USERNAME"):
        settings |= {"security.protocol": "SASL_SSL", "sasl.username": user, "sasl.password": environ["KAFKA_PASSWORD"]}
        settings["sasl.mechanism"] = environ.get("KAFKA_SASL_MECHANISM", "PLAIN")
    return settings


def consume(database, consumer, producer, stopping):
    while not stopping.is_set():
        message = consumer.poll(1)
        if message is None:
            continue
        if error := message.error():
            if error.fatal():
                raise KafkaException(error)
            logging.warning("%s", error)  # The client connects again by itself.
            continue
        try:
            process(database, message)
        except (sqlite3.Error, OSError):
            raise  # Not the notification's fault: it comes again after a restart.
        except Exception as error:
            logging.exception("put aside: partition %s, offset %s", message.partition(), message.offset())
            put_aside(producer, message, error)
        try:
            consumer.commit(message, asynchronous=False)
        except KafkaException as error:
            # The broker is away, or the partition has another consumer by now. Whoever reads this again finds it in `seen`.
            logging.warning("not committed: %s", error)


def main():
    stopping = threading.Event()
    for number in [signal.SIGTERM, signal.SIGINT]:
        signal.signal(number, lambda *_: stopping.set())
    database = sqlite3.connect(environ.get("DATABASE", "notifications.sqlite"))
    database.executescript(SCHEMA)
    producer = Producer(connection() | {"enable.idempotence": True})
    consumer = Consumer(
        connection()
        | {
            "group.id": environ["KAFKA_GROUP"],
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 10_000,  # For so long its partitions wait for one that was killed.
        }
    )
    consumer.subscribe([environ["KAFKA_TOPIC"]])
    try:
        consume(database, consumer, producer, stopping)
    finally:
        consumer.close()
        database.close()


if __name__ == "__main__":
    main()
