//! Integration tests, one module per subject.
//!
//! What needs more than this crate (a broker, a browser, a client in another language) is behind the feature `broker-tests`,
//! which `tests/run` switches on when it has started all of that. Those tests fail, and never skip, where it is missing.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic, in helpers too")]
#![cfg_attr(
    not(feature = "broker-tests"),
    allow(dead_code, unused_imports, reason = "what the tests of a missing feature share")
)]

/// Addresses of proxies and brokers: what is accepted, what is refused.
#[cfg(feature = "emulator")]
mod addresses;
/// The admin port: metrics, status, health.
#[cfg(feature = "emulator")]
mod admin;
/// The admin port against hostile clients and browsers.
#[cfg(feature = "emulator")]
mod admin_port;
/// The alert rules, evaluated by a real Prometheus.
#[cfg(feature = "broker-tests")]
mod alerts;
/// The AsyncAPI document of a config.
#[cfg(feature = "broker-tests")]
mod asyncapi;
/// No token, password, phone number or message text in logs, metrics or pages.
#[cfg(feature = "broker-tests")]
mod canaries;
/// Replicas on clusters of three brokers.
#[cfg(feature = "broker-tests")]
mod clusters;
/// Command-line arguments and exit codes.
mod command_line;
/// Conditions of instances: entered, reported once, cleared.
#[cfg(feature = "emulator")]
mod conditions;
/// `deploy/docs/configuration.md` equals the schema.
mod configuration;
/// The sample consumers, while database, process and broker fail.
#[cfg(feature = "broker-tests")]
mod consumer_samples;
/// The contract test of sinks: every built-in sink passes, broken ones fail.
mod contract;
/// `CONTRIBUTING.md`, `SECURITY.md` and the workflows.
mod contributors;
/// Kubernetes manifest, Dockerfile, Compose files, unit: read by their own tools.
#[cfg(all(feature = "kafka", feature = "amqp", feature = "emulator"))]
mod deploy;
/// Compose's services, the unit and the sample consumers, executed.
#[cfg(feature = "broker-tests")]
mod deploy_run;
/// `doctor`: what it finds, and that it changes nothing.
#[cfg(feature = "emulator")]
mod doctor;
/// The Green API queue as a local server.
#[cfg(feature = "emulator")]
mod emulator;
/// Warnings about weakened security.
#[cfg(feature = "emulator")]
mod exposure;
/// The file sink when its file is moved, replaced or removed.
#[cfg(feature = "emulator")]
mod file;
/// Many instances in one process.
#[cfg(feature = "emulator")]
mod fleet;
/// Faulty instances beside healthy ones.
#[cfg(feature = "broker-tests")]
mod hostile;
/// Config and secret files that are missing, special, or on a hanging file system.
#[cfg(feature = "emulator")]
mod input_files;
/// Kafka, read by an independent client.
#[cfg(feature = "broker-tests")]
mod kafka;
/// Kafka: bridge and broker killed at named points.
#[cfg(feature = "broker-tests")]
mod kafka_kills;
/// The ledger topic, with entries of ours and of others.
#[cfg(feature = "broker-tests")]
mod kafka_ledger;
/// Kafka logins by OAUTHBEARER.
#[cfg(feature = "broker-tests")]
mod kafka_oauth;
/// Kafka outages.
#[cfg(feature = "broker-tests")]
mod kafka_outages;
/// Notifications that Kafka rejects.
#[cfg(feature = "broker-tests")]
mod kafka_poison;
/// Kafka: TLS, logins and permissions.
#[cfg(feature = "broker-tests")]
mod kafka_security;
/// Kafka topics with the settings of operators.
#[cfg(feature = "broker-tests")]
mod kafka_settings;
/// Replicas that share the instances through Kafka.
#[cfg(feature = "broker-tests")]
mod kafka_shards;
/// Support: Kafka topics of a test's own.
#[cfg(feature = "broker-tests")]
mod kafka_topics;
/// From the emulator into a file: order, crashes, bad answers, secrets.
#[cfg(feature = "emulator")]
mod line;
/// Support: a proxy whose connections a test can cut.
mod network;
/// Malformed and unexpected answers of Green API.
#[cfg(feature = "emulator")]
mod odd_answers;
/// A receive that overlaps the delete before it.
#[cfg(feature = "emulator")]
mod overlap;
/// The admin port's page, in a real browser.
#[cfg(feature = "broker-tests")]
mod page;
/// RabbitMQ, read by an independent client.
#[cfg(feature = "broker-tests")]
mod rabbitmq;
/// Messages for which RabbitMQ closes a channel.
#[cfg(feature = "broker-tests")]
mod rabbitmq_channels;
/// RabbitMQ, consumed in Python and JavaScript.
#[cfg(feature = "broker-tests")]
mod rabbitmq_consumers;
/// RabbitMQ: broker restarts, deleted queues, network faults.
#[cfg(feature = "broker-tests")]
mod rabbitmq_faults;
/// RabbitMQ: the bridge killed at named points.
#[cfg(feature = "broker-tests")]
mod rabbitmq_kills;
/// RabbitMQ: ownership by exclusive queues.
#[cfg(feature = "broker-tests")]
mod rabbitmq_owners;
/// Support: RabbitMQ queues of a test's own.
#[cfg(feature = "broker-tests")]
mod rabbitmq_queues;
/// Messages that consumers of RabbitMQ reject.
#[cfg(feature = "broker-tests")]
mod rabbitmq_rejected;
/// Replicas that share the instances through RabbitMQ.
#[cfg(feature = "broker-tests")]
mod rabbitmq_shards;
/// RabbitMQ: TLS and client certificates.
#[cfg(feature = "broker-tests")]
mod rabbitmq_tls;
/// Exchanges and queues that are missing, different, deleted or full.
#[cfg(feature = "broker-tests")]
mod rabbitmq_topology;
/// `verify` of RabbitMQ's queues and streams.
#[cfg(feature = "broker-tests")]
mod rabbitmq_verify;
/// The README and the pages of `deploy/docs`: commands, links, tables.
#[cfg(feature = "emulator")]
mod readme;
/// The example sink, with a real Redis.
#[cfg(feature = "broker-tests")]
mod redis;
/// The example sink: Redis and the bridge killed.
#[cfg(feature = "broker-tests")]
mod redis_kills;
/// `redrive`: dead letters published again.
#[cfg(feature = "broker-tests")]
mod redrive;
/// Notifications that come again although their deletes were confirmed.
#[cfg(feature = "emulator")]
mod repeats;
/// Support: several bridges with one config, killed and paused.
#[cfg(feature = "broker-tests")]
mod replicas;
/// Support: emulated instances and the bridge under test.
#[cfg(feature = "emulator")]
mod scene;
/// Secrets are never shown.
#[cfg(feature = "emulator")]
mod secrets;
/// Random faults of Green API, with a real Kafka.
#[cfg(feature = "broker-tests")]
mod storm;
/// Support: processes, foreign clients, waiting for conditions.
mod support;
/// Rules of the source: absences, limits, layering.
mod tidy;
/// The schema that consumers generate types from.
#[cfg(feature = "emulator")]
mod types;
/// `verify` finds what is wrong, when something is.
#[cfg(feature = "emulator")]
mod verify;
