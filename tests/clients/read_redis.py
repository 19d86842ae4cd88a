"""Reads a stream from its beginning to its end, as a downstream service would.

Arguments: URL STREAM COUNT. Prints a JSON object per entry once COUNT are there and a look behind the last
shows no more; fails when they do not come.
"""

import base64
import json
import sys
import time

import redis

url, stream, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = redis.Redis.from_url(url, socket_timeout=30, protocol=2)

entries, last, deadline = [], b"0-0", time.monotonic() + 60
while True:
    more = client.xread({stream: last}, count=1000)
    if more:
        entries += more[0][1]
        last = entries[-1][0]
    elif len(entries) >= count:
        break
    elif time.monotonic() > deadline:
        sys.exit(f"{len(entries)} of {count} entries after a minute")

for entry_id, fields in entries:
    body = fields.pop(b"data")
    print(
        json.dumps(
            {
                "at_ms": int(entry_id.split(b"-")[0]),
                "fields": {name.decode(): value.decode() for name, value in fields.items()},
                "body": base64.b64encode(body).decode(),
            }
        )
    )
