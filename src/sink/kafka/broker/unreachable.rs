//! Why no broker can be reached. A request only times out; that a certificate or a password was
//! refused is told to whoever listens to the connections.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::client::Quiet;

const GLANCE: Duration = Duration::from_millis(100);
const GLANCES: usize = 50;

/// Connects once more, and tells what is heard within 5 seconds. `None` when nothing is.
pub(super) fn why(config: &ClientConfig) -> Option<String> {
    let listening: BaseProducer<Listening> = config.create_with_context(Listening(Mutex::new(None))).ok()?;
    // That it cannot answer is known; it makes the client connect.
    listening.client().fetch_metadata(None, GLANCE).ok();
    (0..GLANCES).find_map(|_| {
        listening.poll(GLANCE);
        listening.context().0.lock().ok()?.take()
    })
}

struct Listening(Mutex<Option<String>>);

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down says less than why each of them is.
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
