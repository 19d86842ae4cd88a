//! From nothing to an owned, confirming channel on a declared topology.

use std::fs;
use std::path::Path;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Error, ErrorKind, ExchangeKind};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::PATIENCE;
use crate::config::{self, QueueType};
use crate::sink::owner::Failure;

/// A connection that holds the ownership, and its publishing channel.
pub(super) struct Connected {
    pub connection: Connection,
    pub channel: Channel,
    pub owner_queue: ShortString,
}

/// What the config keeps in files.
pub(super) struct Secrets {
    uris: Vec<SecretString>,
    tls: OwnedTLSConfig,
}

impl Secrets {
    /// Reads the files, which may have changed since the last time.
    pub(super) fn read(config: &config::Amqp) -> Result<Self, String> {
        let told =
            |key: &str, path: &Path, error: &std::io::Error| format!("sink.amqp.{key} {}: {error}", path.display());
        let text = |key: &str, path: &Path| fs::read_to_string(path).map_err(|error| told(key, path, &error));
        let uris = match &config.uri_file {
            Some(path) => vec![SecretString::from(text("uri_file", path)?.trim())],
            None => config.uri.iter().map(|uri| uri.value.clone()).collect(),
        };
        for uri in &uris {
            // The client's own error would repeat it, password and all.
            let key = if config.uri_file.is_some() { "uri_file" } else { "uri" };
            config::amqp_uri(uri.expose_secret()).map_err(|form| format!("sink.amqp.{key}: it {form}"))?;
        }
        let cert_chain = config.ca_file.as_deref().map(|path| text("ca_file", path)).transpose()?;
        let identity = match &config.client_identity_file {
            None => None,
            Some(path) => {
                let der = fs::read(path).map_err(|error| told("client_identity_file", path, &error))?;
                let password = match &config.client_identity_password_file {
                    None => String::new(),
                    Some(path) => text("client_identity_password_file", path)?.trim().to_owned(),
                };
                Some(OwnedIdentity::PKCS12 { der, password })
            }
        };
        Ok(Self { uris, tls: OwnedTLSConfig { identity, cert_chain } })
    }
}

/// Connects, takes the ownership, and only then looks after the topology.
pub(super) async fn connect(config: &config::Amqp) -> Result<Connected, Failure> {
    let secrets = Secrets::read(config).map_err(Failure::Unavailable)?;
    let mut failure = Failure::Unavailable("no address".into());
    for (index, uri) in secrets.uris.iter().enumerate() {
        // The address may hold a password: it is told by its place.
        let told = |why: &dyn std::fmt::Display| Failure::Unavailable(format!("sink.amqp.uri[{index}]: {why}"));
        let properties = ConnectionProperties::default().with_connection_name(LongString::from(config.name.as_str()));
        // No recovery by the client itself: it was seen to hang, and nothing may be published
        // again before the ownership is taken again.
        let connecting = Connection::connect_with_config(
            uri.expose_secret(),
            properties,
            secrets.tls.clone(),
            lapin::runtime::default_runtime().map_err(|error| told(&error))?,
        );
        match timeout(PATIENCE, connecting).await {
            Ok(Ok(connection)) => {
                return timeout(PATIENCE, own(connection, config)).await.map_err(|late| told(&late))?;
            }
            Ok(Err(error)) => failure = told(&error),
            Err(late) => failure = told(&late),
        }
    }
    Err(failure)
}

async fn own(connection: Connection, config: &config::Amqp) -> Result<Connected, Failure> {
    let owner_queue = ShortString::from(format!("{}.owner", config.name));
    let channel = connection.create_channel().await.map_err(|error| unavailable("channel", &error))?;
    prove_ownership(&channel, &owner_queue).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| unavailable("confirms", &error))?;
    topology(&channel, config).await?;
    Ok(Connected { connection, channel, owner_queue })
}

/// Declares the ownership queue: succeeds only on the connection that has it, or when nobody has.
pub(super) async fn prove_ownership(channel: &Channel, queue: &ShortString) -> Result<(), Failure> {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.clone(), exclusive, FieldTable::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_locked(&error) => Err(Failure::Owned(format!("another connection holds the queue {queue}"))),
        Err(error) => Err(unavailable("the ownership queue", &error)),
    }
}

fn is_locked(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED)
    )
}

async fn topology(channel: &Channel, config: &config::Amqp) -> Result<(), Failure> {
    let passive = !config.declare;
    let exchange = ShortString::from(config.exchange.as_str());
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .map_err(|error| unavailable(&format!("the exchange {exchange}"), &error))?;
    if let Some(queue) = &config.queue {
        let queue = declare(channel, queue, config.queue_type, passive).await?;
        if config.declare {
            channel
                .queue_bind(queue.clone(), exchange, "#".into(), QueueBindOptions::default(), FieldTable::default())
                .await
                .map_err(|error| unavailable(&format!("the binding of {queue}"), &error))?;
        }
    }
    // A stream never hands a message out for good, which is what dead letters wait for.
    let kind = if config.queue_type == QueueType::Stream { QueueType::Quorum } else { config.queue_type };
    declare(channel, &config.dead_letter_queue, kind, passive).await?;
    Ok(())
}

async fn declare(channel: &Channel, queue: &str, kind: QueueType, passive: bool) -> Result<ShortString, Failure> {
    let queue = ShortString::from(queue);
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.argument().into()));
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.clone(), options, arguments).await {
        Ok(_) => Ok(queue),
        Err(error) => Err(unavailable(&format!("the queue {queue}"), &error)),
    }
}

pub(super) fn unavailable(what: &str, error: &Error) -> Failure {
    Failure::Unavailable(format!("{what}: {error}"))
}
