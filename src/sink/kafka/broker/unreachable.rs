//! Why no broker can be reached. Requests merely time out; refused certificates and passwords are reported only as events of
//! the connections.

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
        Some(format!(
            "broker {id} is advertised as {host}:{port}, where it cannot be reached from here ({why}): correct its \
             `advertised.listeners`, or name resolution, firewall or routes"
        ))
    })
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
    advertised(&answers.next()?)
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
