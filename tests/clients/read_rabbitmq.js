// Consumes COUNT messages of a queue with amqplib, as read_rabbitmq.py does with pika, and prints the same.
// Arguments: URI QUEUE COUNT [once]. `once`: a message whose id was seen before is dropped, and COUNT are the others.
const amqp = require("amqplib");

const [uri, queue, count, once] = process.argv.slice(2);
const messages = [];
const seen = new Set();

setTimeout(() => {
  console.error(`${messages.length} of ${count} messages after a minute`);
  process.exit(1);
}, 60_000).unref();

async function main() {
  const connection = await amqp.connect(uri);
  const channel = await connection.createChannel();
  await channel.prefetch(100);
  await new Promise((finished) =>
    channel.consume(queue, (message) => {
      channel.ack(message);
      const { fields, properties, content } = message;
      if (once && seen.has(properties.messageId)) return;
      seen.add(properties.messageId);
      messages.push({
        exchange: fields.exchange,
        routing_key: fields.routingKey,
        redelivered: fields.redelivered,
        headers: properties.headers,
        properties: {
          content_type: properties.contentType,
          delivery_mode: properties.deliveryMode,
          message_id: properties.messageId,
          type: properties.type,
          timestamp: properties.timestamp,
          app_id: properties.appId,
        },
        body: content.toString("base64"),
      });
      if (messages.length === Number(count)) finished();
    }),
  );
  await channel.close();
  await connection.close();
  for (const message of messages) console.log(JSON.stringify(message));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
