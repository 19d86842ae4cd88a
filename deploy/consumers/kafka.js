// Reads notifications from Kafka: only those of committed transactions.
// Not every client keeps that promise: @platformatic/kafka 2.12.1 passes on what was aborted. This one does not.
//
// npm install kafkajs lz4js; node kafka.js SERVERS TOPIC GROUP
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require("kafkajs");
const lz4 = require("lz4js");

const [servers, topic, groupId] = process.argv.slice(2);
// How the bridge compresses unless told otherwise; kafkajs itself knows only gzip.
CompressionCodecs[CompressionTypes.LZ4] = () => ({ decompress: async (data) => Buffer.from(lz4.decompress(data)) });

async function main() {
  // Below WARN, kafkajs logs to the standard output.
  const kafka = new Kafka({ brokers: servers.split(","), logLevel: logLevel.WARN });
  const consumer = kafka.consumer({ groupId, readUncommitted: false });
  // Otherwise a crash would end it with status 0.
  consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || process.exit(1));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      const { headers, offset, value } = message;
      const notification = JSON.parse(value);
      console.log(`${headers.ce_idinstance} ${headers.ce_sequence} ${notification.typeWebhook}`);
      // After the work is done. Killed in between, this program reads the record again: store ce_id together with your results.
      await consumer.commitOffsets([{ topic, partition, offset: `${BigInt(offset) + 1n}` }]);
    },
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
