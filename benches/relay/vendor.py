"""What people write with the vendor's Python client: receive, publish, delete, in a thread for each instance.

Arguments: API_URL API_TOKEN kafka|amqp ADDRESS NAME INSTANCE…
"""

import json
import sys
import threading

import confluent_kafka
import pika
from confluent_kafka.admin import AdminClient, NewTopic
from whatsapp_api_client_python import API

api_url, token, broker, address, name, *instances = sys.argv[1:]


def kafka_publisher():
    def publish(instance, body):
        producer.produce(name, body, key=instance)
        producer.flush()

    return publish


def amqp_publisher():
    # A connection must not be shared between threads.
    channel = pika.BlockingConnection(pika.URLParameters(address)).channel()
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    return lambda _instance, body: channel.basic_publish("", name, body, persistent)


def relay(instance):
    publish = kafka_publisher() if broker == "kafka" else amqp_publisher()
    receiving = API.GreenAPI(instance, token, host=api_url).receiving
    while True:
        notification = receiving.receiveNotification(receiveTimeout=20).data
        if notification:
            publish(instance, json.dumps(notification["body"]))
            receiving.deleteNotification(notification["receiptId"])


if broker == "kafka":
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(name, 3)])[name].result()
    producer = confluent_kafka.Producer({"bootstrap.servers": address})
threads = [threading.Thread(target=relay, args=[instance]) for instance in instances]
for thread in threads:
    thread.start()
