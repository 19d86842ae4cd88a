// Takes each notification from RabbitMQ into a database once, and puts aside what cannot be handled.
//
// npm ci && npm run build && node rabbitmq.js; the environment that it needs: deploy/docs/consuming.md.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, type ChannelModel, type ConsumeMessage } from "amqplib";
import Database from "libsql";

const { env } = process;

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

function accept(database: Database.Database, { properties, content }: ConsumeMessage) {
  const attribute = (name: string) => {
    const found = properties.headers?.[`cloudEvents_${name}`];
    if (found === undefined) throw new Error(`no header cloudEvents_${name}`);
    return String(found);
  };
  const inOneTransaction = database.transaction(() => {
    const key = [attribute("source"), attribute("id")];
    const isNew = database.prepare("INSERT OR IGNORE INTO seen VALUES (?, ?)").run(...key).changes > 0;
    if (isNew) handle(database, attribute, content.toString());
  });
  inOneTransaction();
}

const queue = env.AMQP_QUEUE!;
const ca = env.AMQP_CA_FILE ? [readFileSync(env.AMQP_CA_FILE)] : undefined;
const database = new Database(env.DATABASE ?? "notifications.sqlite");
database.exec(SCHEMA);
// Aborted without a reason when asked to end, otherwise with what went wrong.
const stop = new AbortController();
const stopped = once(stop.signal, "abort");
for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stop.abort(null));

/** After every connection. What was prefetched on an earlier one comes again. */
async function setup(model: ChannelModel) {
  const channel = await model.createChannel();
  // The connection is made again; a channel that the broker closes, over a mistake of ours, is not.
  channel.on("error", (error) => stop.abort(error));
  await channel.prefetch(100);
  await channel.consume(queue, (message) => {
    if (stop.signal.aborted) return;
    if (message === null) return stop.abort(new Error(`${queue} was deleted`));
    try {
      accept(database, message);
    } catch (error) {
      // Not the notification's fault: it comes again after a restart.
      if (error instanceof Database.SqliteError) return stop.abort(error);
      console.error(`put aside: ${message.properties.messageId}:`, error);
      return channel.reject(message, false); // To the queue's dead-letter exchange.
    }
    channel.ack(message);
  });
}

const connection = await connect(env.AMQP_URI!, { ca, recovery: { maxDelay: 5_000, setup, waitForConnect: false } });
for (const event of ["error", "connect-failed"]) {
  connection.on(event, (error) => console.error("connecting again:", error.message));
}
await stopped;
await connection.close();
database.close();
if (stop.signal.reason) throw stop.signal.reason;
