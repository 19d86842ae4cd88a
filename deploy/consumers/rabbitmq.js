// Reads notifications from RabbitMQ and drops those it has seen: the message id is the same for the same notification.
//
// npm install amqplib; node rabbitmq.js URI QUEUE
const { appendFileSync, existsSync, readFileSync } = require("node:fs");
const amqp = require("amqplib");

const [uri, queue] = process.argv.slice(2);
// In a service: a table, written in the transaction that does the work.
const file = "seen.txt";
const seen = new Set(existsSync(file) ? readFileSync(file, "utf8").split("\n") : []);

async function main() {
  const connection = await amqp.connect(uri);
  const channel = await connection.createChannel();
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    if (message === null) throw new Error(`${queue} was deleted`);
    const { messageId, headers } = message.properties;
    if (!seen.has(messageId)) {
      const notification = JSON.parse(message.content);
      console.log(headers.cloudEvents_idinstance, headers.cloudEvents_sequence, notification.typeWebhook);
      seen.add(messageId);
      appendFileSync(file, `${messageId}\n`);
    }
    channel.ack(message);
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
