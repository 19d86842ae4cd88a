"""Creates a topic of one partition, as an operator would. Arguments: SERVERS TOPIC [NAME=VALUE]..."""

import sys

from confluent_kafka.admin import AdminClient, NewTopic

servers, topic, *settings = sys.argv[1:]
config = dict(setting.split("=", 1) for setting in settings)
admin = AdminClient({"bootstrap.servers": servers})
for created in admin.create_topics([NewTopic(topic, 1, config=config)]).values():
    created.result(timeout=30)
