"""Permits or forbids something to the user `bridge`, as an operator would.

Arguments: SERVERS RULE..., where a RULE is allow|deny|undo:topic|transactional_id:NAME:OPERATION[,OPERATION], the
NAME a prefix if it ends in `*`; `undo` takes a `deny` back.
"""

import sys

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

servers, *rules = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": servers})
for rule in rules:
    verb, kind, name, operations = rule.split(":")
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    permission = AclPermissionType.ALLOW if verb == "allow" else AclPermissionType.DENY
    for operation in operations.split(","):
        what = [
            ResourceType[kind.upper()],
            name.rstrip("*"),
            pattern,
            "User:bridge",
            "*",
            AclOperation[operation.upper()],
            permission,
        ]
        if verb == "undo":
            pending = admin.delete_acls([AclBindingFilter(*what)])
        else:
            pending = admin.create_acls([AclBinding(*what)])
        for done in pending.values():
            done.result(timeout=30)
