//! The sink `amqp`: RabbitMQ, at least once, possible duplicates marked.

#[cfg(feature = "amqp")]
mod broker;
mod check;
mod options;

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use url::Url;

#[cfg(all(feature = "amqp", any(test, fuzzing)))]
pub(crate) use self::broker::destination;
pub use self::options::{Argument, OnUnroutable, Options, QueueType};
use super::driver::{Driver, Kind};
use crate::address::has_password;
use crate::asyncapi::Description;
use crate::error::SetupError;
use crate::input_file;
use crate::mistake::Found;

/// Its form as a URL.
pub(super) const FORM: &str = "amqp(s)://USER:PASS@HOST:PORT/VHOST[?exchange=NAME&queue=NAME]";

/// The channel of notifications, with what its shipped description says of the defaults.
fn described(mut channel: Value, exchange: &str, routing_key: &str) -> Value {
    let text = format!(
        "Drop a message whose message_id you have seen. Its routing key at the exchange {exchange} is {routing_key}."
    );
    channel["description"] = text.into();
    channel
}

impl Kind for Options {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn check(&self, found: &mut Found<'_>) {
        check::check(self, found);
    }

    fn can_share(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<&str> {
        self.uri.iter().map(ExposeSecret::expose_secret).filter(|uri| has_password(uri)).collect()
    }

    fn description(&self) -> Result<Description, SetupError> {
        let from_file = self.uri_file.as_ref().map(|path| {
            input_file::read_secret_text(path)
                .map_err(|error| SetupError::new(format!("sink.amqp.uri_file: {}", path.display()), error))
        });
        let addresses: Vec<String> = match from_file.transpose()? {
            Some(uri) => vec![uri.trim().to_owned()],
            None => self.uri.iter().map(|uri| uri.expose_secret().to_owned()).collect(),
        };
        let urls: Result<Vec<Url>, _> = addresses.iter().map(|uri| Url::parse(uri)).collect();
        // The parser's error does not repeat the text, which may contain a password.
        let urls = urls.map_err(|error| {
            SetupError::new("sink.amqp.uri_file must look like amqps://USER:PASSWORD@HOST:5671/VHOST", error)
        })?;
        let server = |url: &Url| {
            let port = url.port().unwrap_or(if url.scheme() == "amqps" { 5671 } else { 5672 });
            let host = format!("{}:{port}", url.host_str().unwrap_or_default());
            json!({"host": host, "pathname": url.path(), "protocol": url.scheme()})
        };
        let queue = |name: &str| {
            let queue = json!({"name": name, "durable": true, "exclusive": false, "autoDelete": false});
            json!({"address": name, "bindings": {"amqp": {"is": "queue", "queue": queue}}})
        };
        let exchange = json!({"name": self.exchange, "type": "topic", "durable": true, "autoDelete": false});
        let channel = match &self.queue {
            Some(name) => queue(name),
            // The queues are the operator's own: what is known is where they can be bound.
            None => json!({
                "address": self.routing_key,
                "title": "Routing key at the exchange, `sink.amqp.routing_key`",
                "bindings": {"amqp": {"is": "routingKey", "exchange": exchange}},
            }),
        };
        Ok(Description {
            kind: "amqp",
            servers: urls.iter().map(server).collect(),
            channel: described(channel, &self.exchange, &self.routing_key),
            dead_letters: queue(&self.dead_letter_queue),
        })
    }

    fn guarantee(&self) -> &'static str {
        "at least once, possible duplicates marked"
    }

    #[cfg(feature = "amqp")]
    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Ok(self)
    }

    #[cfg(not(feature = "amqp"))]
    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Err("sink.amqp: this build lacks the feature `amqp`".into())
    }
}
