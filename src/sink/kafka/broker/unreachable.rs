//! Why no broker can be reached. Requests merely time out; refused certificates and passwords are reported only as events of
//! the connections.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::client::Quiet;

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
