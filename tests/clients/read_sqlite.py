"""Prints what a sample consumer has put into its database, a JSON object per row. Argument: DATABASE."""

import json
import sqlite3
import sys

rows = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30).execute("SELECT * FROM notifications")
names = [column[0] for column in rows.description]
for row in rows:
    print(json.dumps(dict(zip(names, row, strict=True))))
