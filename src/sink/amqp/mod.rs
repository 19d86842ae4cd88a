//! The sink `amqp`: RabbitMQ, at least once, possible duplicates marked.

#[cfg(feature = "amqp")]
mod broker;
mod check;
mod options;

use secrecy::ExposeSecret;

#[cfg(all(feature = "amqp", any(test, fuzzing)))]
pub(crate) use self::broker::destination;
pub use self::options::{Argument, OnUnroutable, Options, QueueType};
use super::driver::{Driver, Kind};
use crate::address::has_password;
use crate::error::SetupError;
use crate::mistake::Found;

/// Its form as a URL.
pub(super) const FORM: &str = "amqp(s)://USER:PASS@HOST:PORT/VHOST[?exchange=NAME&queue=NAME]";

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
