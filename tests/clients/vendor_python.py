"""Green API's own Python SDK, unmodified, against a server: receive, delete, settings, state.

Arguments: API_URL ID_INSTANCE API_TOKEN. The instance's queue must be empty and its webhookUrl unset.
"""

import sys
import urllib.request

from whatsapp_api_client_python import API

api_url, id_instance, token = sys.argv[1:]
# With raise_errors any status but 200 ends the script.
client = API.GreenAPI(id_instance, token, host=api_url, raise_errors=True)


def queue(body: str) -> None:
    """The account's side of it: a notification happens."""
    url = f"{api_url}/_emulator/{id_instance}/notifications"
    with urllib.request.urlopen(url, data=body.encode()) as answer:
        assert answer.status == 200, answer.status


def expect(step: str, found: object, wanted: object) -> None:
    assert found == wanted, f"{step}: found {found!r}, wanted {wanted!r}"
    print(f"{step}: {found!r}")


expect("state", client.account.getStateInstance().data, {"stateInstance": "authorized"})

expect("set settings", client.account.setSettings({"incomingWebhook": "yes"}).data, {"saveSettings": True})
settings = client.account.getSettings().data
expect("a setting that was set", settings["incomingWebhook"], "yes")
expect("a setting that was not", settings["outgoingWebhook"], "no")

queue('{"typeWebhook":"incomingMessageReceived","idMessage":"first"}')
queue('{"typeWebhook":"outgoingMessageStatus","idMessage":"second"}')
first = client.receiving.receiveNotification(receiveTimeout=5).data
expect("receive", first["body"]["idMessage"], "first")
expect("receive again", client.receiving.receiveNotification().data, first)
deleted = {"result": True, "reason": ""}
expect("delete", client.receiving.deleteNotification(first["receiptId"]).data, deleted)
expect("delete again", client.receiving.deleteNotification(first["receiptId"]).data["result"], False)

# The SDK's own receiving loop, which deletes after the handler; it stops after this notification.
seen = []


def handle(kind: str, body: dict) -> None:
    seen.append((kind, body["idMessage"]))
    client.webhooks.stopReceivingNotifications()


client.webhooks.startReceivingNotifications(handle)
expect("receiving loop", seen, [("outgoingMessageStatus", "second")])
expect("empty queue", client.receiving.receiveNotification(receiveTimeout=5).data, None)

stranger = API.GreenAPI(id_instance, "wrong" + token, host=api_url)
refused = stranger.account.getStateInstance()
expect("wrong token", (refused.code, refused.error), (401, ""))

print("the vendor's SDK is content")
