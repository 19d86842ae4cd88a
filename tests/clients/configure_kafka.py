"""Changes a setting of a topic, as an operator would. Arguments: SERVERS TOPIC NAME VALUE."""

import sys

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

servers, topic, name, value = sys.argv[1:]
entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
admin = AdminClient({"bootstrap.servers": servers})
for done in admin.incremental_alter_configs([resource]).values():
    done.result(timeout=30)
