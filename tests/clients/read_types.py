"""Parses lines with the models generated from the schema: of each the names of its classes, and what is printed of it again."""

import json
import sys

from notification import Notification

with open(sys.argv[1], encoding="utf-8") as bodies:
    for body in bodies:
        notification = Notification.model_validate_json(body, strict=True).root
        parts = [notification]
        if hasattr(notification, "messageData"):
            parts.append(notification.messageData.root)
        printed = notification.model_dump_json(by_alias=True, exclude_unset=True)
        print(json.dumps({"classes": [type(part).__name__ for part in parts], "body": json.loads(printed)}))
