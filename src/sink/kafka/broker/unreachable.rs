//! Why no broker can be reached. Requests merely time out; refused certificates and passwords are reported only as events of
//! the connections.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::client::Quiet;

const ATTEMPTS: usize = 6;
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
const POLLS: usize = 50;

/// Connects once more and returns the first event of the connections within 5 s, if any.
pub(super) fn why(config: &ClientConfig) -> Option<String> {
    let listening: BaseProducer<Listening> = config.create_with_context(Listening(Mutex::new(None))).ok()?;
    // Expected to fail: it makes the client connect.
    listening.client().fetch_metadata(None, POLL_TIMEOUT).ok();
    (0..POLLS).find_map(|_| {
        listening.poll(POLL_TIMEOUT);
        listening.context().0.lock().ok()?.take()
    })
}

/// The first broker that the cluster advertises at an address to which no connection can be made, although the bootstrap
/// servers answer. The client itself only reports timeouts. Takes up to 3 s per address.
pub(super) fn advertised(metadata: &Metadata) -> Option<String> {
    metadata.brokers().iter().find_map(|broker| {
        let (id, host, port) = (broker.id(), broker.host(), u16::try_from(broker.port()).ok()?);
        let why = connect(host, port).err()?;
        Some(cannot_be_reached(id, &format!("{host}:{port}"), &why))
    })
}

fn cannot_be_reached(id: i32, address: &str, why: &dyn fmt::Display) -> String {
    format!(
        "broker {id} is advertised as {address}, where it cannot be reached from here ({why}): correct its \
         `advertised.listeners`, or name resolution, firewall or routes"
    )
}

/// The same from the client's reason for a failed connection, `[PROTOCOL://]ADDRESS:PORT/ID: WHY`. A bootstrap server has no id
/// there.
fn advertised_in(reason: &str) -> Option<String> {
    let (broker, why) = reason.split_once(": ")?;
    let is_of_the_way = ["Connect to ", "Connection setup timed out", "Failed to resolve "];
    let (address, id) = broker.rsplit_once("://").map_or(broker, |(_, rest)| rest).rsplit_once('/')?;
    let id = id.parse().ok().filter(|_| is_of_the_way.iter().any(|start| why.starts_with(start)))?;
    Some(cannot_be_reached(id, address, &why))
}

/// As [`advertised`], for new clients: one that was sent to such an address may no longer ask the bootstrap servers, and may
/// have been sent there before its first request.
pub(super) fn advertised_to(config: &ClientConfig) -> Option<String> {
    let mut config = config.clone();
    config.remove("transactional.id");
    let mut answers = (0..ATTEMPTS).filter_map(|_| {
        let client: BaseProducer<Quiet> = config.create_with_context(Quiet).ok()?;
        client.client().fetch_metadata(None, METADATA_TIMEOUT).ok()
    });
    // A client that was sent there before anything else says so itself.
    answers.next().map_or_else(|| advertised_in(&why(&config)?), |metadata| advertised(&metadata))
}

/// Why a request timed out, if it is the connections to the brokers. Other errors say it themselves.
pub(super) fn explain(config: &ClientConfig, error: &KafkaError) -> Option<String> {
    let code = if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() };
    if code != Some(RDKafkaErrorCode::OperationTimedOut) {
        return None;
    }
    advertised_to(config).or_else(|| Some(format!("sink.kafka.bootstrap_servers: {}", why(config)?)))
}

fn connect(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_connection) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

struct Listening(Mutex<Option<String>>);

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers down" says less than the reason for each of them.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown)
            && let Ok(mut heard) = self.0.lock()
        {
            *heard = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Listening {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, _opaque: ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_is_read_from_the_clients_reason() {
        let dead =
            "10.0.0.7:9092/3: Connect to ipv4#10.0.0.7:9092 failed: Connection refused (after 0ms in state CONNECT)";
        let found = advertised_in(dead).unwrap();
        assert!(found.starts_with("broker 3 is advertised as 10.0.0.7:9092, where it cannot be reached"), "{found}");
        let timeout =
            "sasl_ssl://kafka-1:9093/1: Connection setup timed out in state CONNECT (after 30029ms in state CONNECT)";
        assert!(advertised_in(timeout).unwrap().starts_with("broker 1 is advertised as kafka-1:9093,"));
        for other in [
            "localhost:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused",
            "sasl_ssl://kafka-1:9093/1: SASL authentication error: Authentication failed",
            "ssl://kafka-1:9093/1: SSL handshake failed: certificate verify failed",
            "3/3 brokers are down",
        ] {
            assert_eq!(advertised_in(other), None, "{other}");
        }
    }
}
