"""Parses lines with the models generated from the schema: of each the names of its classes, and what is printed of it again.

A body of an unknown kind has no class and stays as it is.
"""

import json
import sys

from notification import Notification
from pydantic import ValidationError

with open(sys.argv[1], encoding="utf-8") as bodies:
    for body in bodies:
        try:
            notification = Notification.model_validate_json(body, strict=True).root
        except ValidationError:
            print(json.dumps({"classes": [], "body": json.loads(body)}))
            continue
        parts = [notification]
        if hasattr(notification, "messageData"):
            parts.append(notification.messageData.root)
        printed = notification.model_dump_json(by_alias=True, exclude_unset=True)
        print(json.dumps({"classes": [type(part).__name__ for part in parts], "body": json.loads(printed)}))
