"""Fences the producer of a transactional id, as one of another process does when it starts.

Arguments: SERVERS TRANSACTIONAL_ID.
"""

import sys

from confluent_kafka import Producer

servers, transactional_id = sys.argv[1:]
Producer({"bootstrap.servers": servers, "transactional.id": transactional_id}).init_transactions(30)
