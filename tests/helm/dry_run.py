"""Asks an API server whether it would take objects: a dry run of a server-side apply, with strict validation.

Arguments: ADDRESS DEFINITIONS... -- FILES..., YAML each. The definitions of resources are applied for real first. The token is
in the environment's TOKEN. Fails if an object is refused.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

import yaml

address, *files = sys.argv[1:]
split = files.index("--")
NAMESPACE = "messaging"
DEADLINE = time.monotonic() + 120
# It has made its certificate itself.
unverified = ssl._create_unverified_context()


def ask(method, path, document=None):
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}", "Accept": "application/json"}
    if document is not None:
        headers["Content-Type"] = "application/apply-patch+yaml"
    body = None if document is None else yaml.safe_dump(document).encode()
    request = urllib.request.Request(address + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=unverified) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def until(condition):
    """Its answer, as soon as there is one."""
    while True:
        try:
            if found := condition():
                return found
        except (urllib.error.URLError, json.JSONDecodeError):
            pass
        if time.monotonic() > DEADLINE:
            sys.exit("the API server is not ready after two minutes")
        time.sleep(0.2)


def resource(document):
    """Where objects of this kind are, once it is known."""
    version = document["apiVersion"]
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    kinds = ask("GET", root)[1].get("resources", [])
    for kind in kinds:
        if kind["kind"] == document["kind"] and "/" not in kind["name"]:
            namespaced = f"/namespaces/{NAMESPACE}" if kind["namespaced"] else ""
            return f"{root}{namespaced}/{kind['name']}/{document['metadata']['name']}"
    return None


def documents(paths):
    for path in paths:
        with open(path) as file:
            yield from ((path, document) for document in yaml.safe_load_all(file) if document)


def apply(document, more=""):
    path = until(lambda: resource(document))
    return ask("PATCH", f"{path}?fieldManager=test&force=true&fieldValidation=Strict{more}", document)


until(lambda: ask("GET", "/api/v1")[0] == 200)
namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
for _, document in [(None, namespace), *documents(files[:split])]:
    status, answer = apply(document)
    if status not in (200, 201):
        sys.exit(f"{document['metadata']['name']}: {answer.get('message')}")
refused = 0
for path, document in documents(files[split + 1 :]):
    status, answer = apply(document, "&dryRun=All")
    is_taken = status in (200, 201)
    refused += not is_taken
    print("ok" if is_taken else f"{status} {answer.get('message')}", f"{path}: {document['kind']} {document['metadata']['name']}")
sys.exit(refused > 0)
