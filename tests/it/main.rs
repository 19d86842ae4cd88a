//! Integration tests, one module per subject.
//!
//! What needs more than this crate (a broker, a browser, a client in another language) is behind the feature `broker-tests`,
//! which `tests/run` switches on when it has started all of that. Those tests fail, and never skip, where it is missing.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic, in helpers too")]
#![cfg_attr(
    not(feature = "broker-tests"),
    allow(dead_code, unused_imports, reason = "what the tests of a missing feature share")
)]

/// Proxies and brokers are where the config says they are, or it is refused.
#[cfg(feature = "emulator")]
mod addresses;
/// The operator's HTTP port.
#[cfg(feature = "emulator")]
mod admin;
/// What others may do to that port.
#[cfg(feature = "emulator")]
mod admin_port;
/// The alerts, in a real Prometheus.
#[cfg(feature = "broker-tests")]
mod alerts;
/// The AsyncAPI document of a config.
#[cfg(feature = "broker-tests")]
mod asyncapi;
/// Tokens, passwords, phone numbers and texts, looked for wherever an operator looks.
#[cfg(feature = "broker-tests")]
mod canaries;
/// Replicas on clusters of three brokers.
#[cfg(feature = "broker-tests")]
mod clusters;
/// What an operator types, and the exit codes.
mod command_line;
/// What keeps an instance from going on is reported, once.
#[cfg(feature = "emulator")]
mod conditions;
/// The page of the configuration.
mod configuration;
/// Every sink keeps the contract of sinks, and who breaks it is noticed.
mod contract;
/// The documents for contributors are true.
mod contributors;
/// What operators deploy with is true.
#[cfg(all(feature = "kafka", feature = "amqp", feature = "emulator"))]
mod deploy;
/// Compose's services, the unit and the sample consumers, at work.
#[cfg(feature = "broker-tests")]
mod deploy_run;
/// What `doctor` finds, and that it touches nothing.
#[cfg(feature = "emulator")]
mod doctor;
/// The Green API queue as a local server.
#[cfg(feature = "emulator")]
mod emulator;
/// What is given up of security.
#[cfg(feature = "emulator")]
mod exposure;
/// What others may do to the file of the sink.
#[cfg(feature = "emulator")]
mod file;
/// Many instances in one process.
#[cfg(feature = "emulator")]
mod fleet;
/// Bad instances beside good ones.
#[cfg(feature = "broker-tests")]
mod hostile;
/// Paths that lead to no file, and file systems that hang.
#[cfg(feature = "emulator")]
mod input_files;
/// Into a real Kafka, read by somebody else's client.
#[cfg(feature = "broker-tests")]
mod kafka;
/// Kafka and the bridge under kills.
#[cfg(feature = "broker-tests")]
mod kafka_kills;
/// What stands in the ledger, whoever wrote it.
#[cfg(feature = "broker-tests")]
mod kafka_ledger;
/// Logins by tokens of an OpenID provider.
#[cfg(feature = "broker-tests")]
mod kafka_oauth;
/// Kafka out of reach, in each way.
#[cfg(feature = "broker-tests")]
mod kafka_outages;
/// What Kafka does not take.
#[cfg(feature = "broker-tests")]
mod kafka_poison;
/// TLS, logins and permissions.
#[cfg(feature = "broker-tests")]
mod kafka_security;
/// Topics as operators make them.
#[cfg(feature = "broker-tests")]
mod kafka_settings;
/// Replicas that share the instances.
#[cfg(feature = "broker-tests")]
mod kafka_shards;
/// Topics of a test's own.
#[cfg(feature = "broker-tests")]
mod kafka_topics;
/// From the emulator into a file: order, crashes, bad answers, secrets.
#[cfg(feature = "emulator")]
mod line;
/// A network to cut.
mod network;
/// Answers that are no notification, or hardly.
#[cfg(feature = "emulator")]
mod odd_answers;
/// A receive beside the delete before it.
#[cfg(feature = "emulator")]
mod overlap;
/// The admin port's page, in a real browser.
#[cfg(feature = "broker-tests")]
mod page;
/// Into a real RabbitMQ, read by somebody else's client.
#[cfg(feature = "broker-tests")]
mod rabbitmq;
/// What RabbitMQ closes a channel over.
#[cfg(feature = "broker-tests")]
mod rabbitmq_channels;
/// What downstream services make of it, in Python and JavaScript.
#[cfg(feature = "broker-tests")]
mod rabbitmq_consumers;
/// RabbitMQ, its operator and the network at their worst.
#[cfg(feature = "broker-tests")]
mod rabbitmq_faults;
/// The bridge killed on its way into RabbitMQ.
#[cfg(feature = "broker-tests")]
mod rabbitmq_kills;
/// Who may publish into RabbitMQ, and when.
#[cfg(feature = "broker-tests")]
mod rabbitmq_owners;
/// Queues of a test's own.
#[cfg(feature = "broker-tests")]
mod rabbitmq_queues;
/// What consumers of RabbitMQ fail on.
#[cfg(feature = "broker-tests")]
mod rabbitmq_rejected;
/// Replicas that share the instances through RabbitMQ.
#[cfg(feature = "broker-tests")]
mod rabbitmq_shards;
/// Certificates of RabbitMQ and for it.
#[cfg(feature = "broker-tests")]
mod rabbitmq_tls;
/// Exchanges and queues that are missing, different, deleted or full.
#[cfg(feature = "broker-tests")]
mod rabbitmq_topology;
/// `verify` of RabbitMQ's queues and streams.
#[cfg(feature = "broker-tests")]
mod rabbitmq_verify;
/// The README and the pages of `deploy/docs` stay true.
#[cfg(feature = "emulator")]
mod readme;
/// A sink of somebody else's: the example, into a real Redis.
#[cfg(feature = "broker-tests")]
mod redis;
/// Redis and the bridge under kills.
#[cfg(feature = "broker-tests")]
mod redis_kills;
/// Notifications that come again although their deletes were confirmed.
#[cfg(feature = "emulator")]
mod repeats;
/// Several bridges with one config.
#[cfg(feature = "broker-tests")]
mod replicas;
/// An emulated instance and the bridge under test.
#[cfg(feature = "emulator")]
mod scene;
/// What must not be shown is not shown.
#[cfg(feature = "emulator")]
mod secrets;
/// Every bad answer, at random, into a real Kafka.
#[cfg(feature = "broker-tests")]
mod storm;
/// Processes and patience.
mod support;
/// What is nowhere in the source, or in one place alone.
mod tidy;
/// `verify` finds what is wrong, when something is.
#[cfg(feature = "emulator")]
mod verify;
