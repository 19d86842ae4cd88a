// Green API's own JavaScript SDK, unmodified, against a server: receive, delete, settings, state.
//
// Arguments: API_URL ID_INSTANCE API_TOKEN. The instance's queue must be empty and its webhookUrl unset.

const assert = require("node:assert/strict");
const { restAPI } = require("@green-api/whatsapp-api-client");

const [apiUrl, idInstance, apiTokenInstance] = process.argv.slice(2);

// The account's side of it: a notification happens.
const queue = async (body) => {
    const answer = await fetch(`${apiUrl}/_emulator/${idInstance}/notifications`, { method: "POST", body: JSON.stringify(body) });
    assert.equal(answer.status, 200);
};

const main = async () => {
    const client = restAPI({ idInstance, apiTokenInstance, host: apiUrl });
    assert.deepEqual(await client.instance.getStateInstance(), { stateInstance: "authorized" });
    assert.deepEqual(await client.settings.setSettings({ incomingWebhook: "yes" }), { saveSettings: true });
    const settings = await client.settings.getSettings();
    assert.deepEqual([settings.incomingWebhook, settings.outgoingWebhook], ["yes", "no"]);

    const first = { typeWebhook: "outgoingMessageStatus", idMessage: "first" };
    await queue(first);
    const received = await client.webhookService.receiveNotification();
    assert.deepEqual(received.body, first);
    assert.deepEqual(await client.webhookService.receiveNotification(), received);
    assert.deepEqual(await client.webhookService.deleteNotification(received.receiptId), { result: true, reason: "" });
    assert.equal((await client.webhookService.deleteNotification(received.receiptId)).result, false);

    // The SDK's own receiving loop, which deletes after the callback.
    const seen = new Promise((resolve) => client.webhookService.onReceivingAccountStatus(resolve));
    await queue({ typeWebhook: "stateInstanceChanged", stateInstance: "authorized" });
    await client.webhookService.startReceivingNotifications();
    assert.equal((await seen).stateInstance, "authorized");

    const stranger = restAPI({ idInstance, apiTokenInstance: `wrong${apiTokenInstance}`, host: apiUrl });
    await assert.rejects(stranger.instance.getStateInstance(), (error) => error.response.status === 401);
    while (JSON.parse(await (await fetch(`${apiUrl}/_emulator/${idInstance}`)).text()).queued > 0) {
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(JSON.stringify({ content: true }));
    // The loop would poll for ever.
    process.exit(0);
};

main();
