"""Locks a database, so that nobody else can write to it, until its input ends. Argument: DATABASE."""

import sqlite3
import sys

database = sqlite3.connect(sys.argv[1], timeout=30)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
