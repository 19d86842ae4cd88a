<?php

// Takes each notification from RabbitMQ into a database once, and puts aside what cannot be handled.
//
// apt-get install php-cli php-amqplib php-sqlite3 && php rabbitmq.php; the environment that it needs: deploy/docs/consuming.md.

declare(strict_types=1);

require_once 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AbstractConnection;
use PhpAmqpLib\Connection\AMQPConnectionConfig;
use PhpAmqpLib\Connection\AMQPConnectionFactory;
use PhpAmqpLib\Exception\AMQPExceptionInterface;
use PhpAmqpLib\Exception\AMQPTimeoutException;
use PhpAmqpLib\Message\AMQPMessage;

const SCHEMA = <<<'SQL'
    CREATE TABLE IF NOT EXISTS seen (source TEXT, id TEXT, PRIMARY KEY (source, id));
    CREATE TABLE IF NOT EXISTS notifications (source TEXT, id TEXT, sequence TEXT, type TEXT, body TEXT);
    SQL;

/** Replace this by your service's work. Write through $database: it is committed together with the id. */
function handle(PDO $database, array $attributes, string $body): void
{
    $notification = json_decode($body, flags: JSON_THROW_ON_ERROR);
    $row = [$attributes['source'], $attributes['id'], $attributes['sequence'], $attributes['type'], $body];
    $database->prepare('INSERT INTO notifications VALUES (?, ?, ?, ?, ?)')->execute($row);
    echo "{$attributes['idinstance']} {$attributes['sequence']} {$notification->typeWebhook}\n";
}

function accept(PDO $database, AMQPMessage $message): void
{
    $headers = $message->has('application_headers') ? $message->get('application_headers')->getNativeData() : [];
    $attributes = [];
    foreach ($headers as $name => $value) {
        $attributes[str_replace('cloudEvents_', '', $name)] = $value;
    }
    $database->beginTransaction();
    try {
        $insert = $database->prepare('INSERT OR IGNORE INTO seen VALUES (?, ?)');
        $insert->execute([$attributes['source'], $attributes['id']]);
        if ($insert->rowCount() === 1) {
            handle($database, $attributes, $message->getBody());
        }
        $database->commit();
    } catch (Throwable $error) {
        $database->rollBack();
        throw $error;
    }
}

function connect(): AbstractConnection
{
    $uri = parse_url(getenv('AMQP_URI'));
    $config = new AMQPConnectionConfig();
    $config->setHost($uri['host']);
    $config->setPort($uri['port'] ?? ($uri['scheme'] === 'amqps' ? 5671 : 5672));
    $config->setUser(rawurldecode($uri['user'] ?? 'guest'));
    $config->setPassword(rawurldecode($uri['pass'] ?? 'guest'));
    $config->setVhost(rawurldecode(substr($uri['path'] ?? '', 1)) ?: '/');
    $config->setHeartbeat(30);
    $config->setReadTimeout(60);
    $config->setWriteTimeout(60);
    if ($uri['scheme'] === 'amqps') {
        $config->setIsSecure(true);
        $config->setNetworkProtocol('ssl'); // Otherwise it says TCP in the clear.
        $config->setSslVerify(true);
        $config->setSslCaCert(getenv('AMQP_CA_FILE') ?: null);
    }
    return AMQPConnectionFactory::create($config);
}

function consume(PDO $database, AbstractConnection $connection, bool &$stopping): void
{
    $channel = $connection->channel();
    $channel->basic_qos(0, 100, false);
    $channel->basic_consume(getenv('AMQP_QUEUE'), callback: function (AMQPMessage $message) use ($database, &$stopping) {
        if ($stopping) {
            return;
        }
        try {
            accept($database, $message);
        } catch (PDOException $error) {
            throw $error; // Not the notification's fault: it comes again after a restart.
        } catch (Throwable $error) {
            error_log("put aside: $error");
            $message->reject(false); // To the queue's dead-letter exchange.
            return;
        }
        $message->ack();
    });
    while (!$stopping && $channel->is_consuming()) {
        try {
            $channel->wait(null, false, 1);
        } catch (AMQPTimeoutException) {
            $connection->checkHeartBeat();
        }
    }
    $connection->close();
}

// So that a header that is not there is an exception.
set_error_handler(function (int $level, string $text, string $file, int $line) {
    return error_reporting() & $level ? throw new ErrorException($text, 0, $level, $file, $line) : false;
});
$stopping = false;
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, function () use (&$stopping) { $stopping = true; });
}
$database = new PDO('sqlite:' . (getenv('DATABASE') ?: 'notifications.sqlite'), options: [PDO::ATTR_TIMEOUT => 5]);
$database->exec(SCHEMA);
while (!$stopping) {
    try {
        consume($database, connect(), $stopping);
    } catch (AMQPExceptionInterface $error) {
        error_log("connecting again: {$error->getMessage()}");
        sleep(1);
    }
}
