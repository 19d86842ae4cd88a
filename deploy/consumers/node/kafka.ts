// Takes each notification from Kafka into a database once, and puts aside what cannot be handled.
//
// npm ci && npm run build && node kafka.js; the environment that it needs: deploy/docs/consuming.md.
import { readFileSync } from "node:fs";
import kafkajs, { type IHeaders, type KafkaConfig, type KafkaMessage, type SASLOptions } from "kafkajs";
import Database from "libsql";
import lz4 from "lz4js";

const { env } = process;
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
// How the bridge compresses by default; kafkajs itself knows only gzip.
CompressionCodecs[CompressionTypes.LZ4] = () => ({ decompress: async (data: Buffer) => Buffer.from(lz4.decompress(data)) });

const SCHEMA = `
CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT);
`;

/** Replace this by your service's work. Write through `database`: it is committed together with the id. */
function handle(database: Database.Database, attribute: (name: string) => string, body: string) {
  const notification = JSON.parse(body);
  const row = [...["source", "id", "sequence", "type"].map(attribute), body];
  database.prepare("INSERT INTO notifications VALUES (?, ?, ?, ?, ?)").run(...row);
  console.log(attribute("idinstance"), attribute("sequence"), notification.typeWebhook);
}

function accept(database: Database.Database, { headers, value }: KafkaMessage) {
  const attribute = (name: string) => {
    const found = headers?.[`ce_${name}`];
    if (found === undefined) throw new Error(`no header ce_${name}`);
    return found.toString();
  };
  const inOneTransaction = database.transaction(() => {
    const key = [attribute("source"), attribute("id")];
    const isNew = database.prepare("INSERT OR IGNORE INTO seen VALUES (?, ?)").run(...key).changes > 0;
    if (isNew) handle(database, attribute, String(value));
  });
  inOneTransaction();
}

function connection(): KafkaConfig {
  const { KAFKA_CA_FILE: authority, KAFKA_USERNAME: username } = env;
  const mechanism = (env.KAFKA_SASL_MECHANISM ?? "PLAIN").toLowerCase();
  return {
    brokers: env.KAFKA_BOOTSTRAP_SERVERS!.split(","),
    ssl: authority ? { ca: readFileSync(authority) } : username !== undefined,
    sasl: username ? ({ mechanism, username, password: env.KAFKA_PASSWORD } as SASLOptions) : undefined,
    // Below WARN, kafkajs logs to the standard output.
    logLevel: logLevel.WARN,
    // It goes on for as long as the broker is away.
    retry: { retries: Number.MAX_SAFE_INTEGER, maxRetryTime: 5_000 },
  };
}

const topic = env.KAFKA_TOPIC!;
const kafka = new Kafka(connection());
const consumer = kafka.consumer({ groupId: env.KAFKA_GROUP!, readUncommitted: false, sessionTimeout: 10_000 });
const producer = kafka.producer({ idempotent: true });
const database = new Database(env.DATABASE ?? "notifications.sqlite");
database.exec(SCHEMA);
try {
  await Promise.all([producer.connect(), consumer.connect()]);
  await consumer.subscribe({ topic, fromBeginning: true });
  await new Promise<void>((resolve, reject) => {
    process.once("SIGTERM", resolve).once("SIGINT", resolve);
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
    const eachMessage = async ({ partition, message }: { partition: number; message: KafkaMessage }) => {
      const { key, value, headers, offset } = message;
      try {
        accept(database, message);
      } catch (error) {
        if (error instanceof Database.SqliteError) {
          // Not the notification's fault: it comes again after a restart.
          reject(error);
          throw error;
        }
        console.error(`put aside: partition ${partition}, offset ${offset}:`, error);
        const letter = { key, value, headers: { ...headers, reason: String(error) } };
        await producer.send({ topic: env.KAFKA_DEAD_LETTER_TOPIC!, messages: [letter] });
      }
      await consumer.commitOffsets([{ topic, partition, offset: `${BigInt(offset) + 1n}` }]);
    };
    consumer.run({ autoCommit: false, eachMessage }).catch(reject);
  });
} finally {
  await Promise.all([consumer.disconnect(), producer.disconnect()]);
  database.close();
}
