//! Looks at RabbitMQ: login, exchange and queues. Takes no ownership, declares nothing.

use super::connection::{self, Secrets};
use crate::doctor::Check;
use crate::sink::amqp::Options;
use crate::sink::session::SessionError;

pub(super) fn examine(config: &Options) -> Vec<Check> {
    let secrets = match Secrets::read(config) {
        Ok(secrets) => secrets,
        Err(why) => return vec![Check::of_sink("config", Err(why))],
    };
    let mut checks = vec![Check::of_sink("config", Ok("secrets can be read".into()))];
    // Looking is declaring with `passive`.
    let looking = Options { declare: false, ..config.clone() };
    for (place, looked) in connection::look(&secrets, &looking) {
        match looked {
            Err(failure) => checks.push(Check::of_sink("broker", Err(format!("{place}: {failure}")))),
            Ok(topology) => {
                checks.push(Check::of_sink("broker", Ok(format!("{place}: logged in"))));
                if let (Ok(Some(count)), Some(queue)) = (&topology, &config.queue) {
                    let told = format!("{queue}.rejected: {count} message(s) that a consumer handed back too often");
                    checks.push(Check::of_sink("rejected", Ok(told)));
                }
                checks.push(Check::of_sink("topology", judged(topology.map(drop), config.declare)));
            }
        }
    }
    checks.push(Check::of_sink("guarantee", Ok("confirmed; what may be a second copy is marked".into())));
    checks
}

fn judged(topology: Result<(), SessionError>, declare: bool) -> Result<String, String> {
    match topology {
        Ok(()) => Ok("exchange and queues exist".into()),
        Err(SessionError::Unavailable(missing)) if declare => Ok(format!("to be declared: {missing}")),
        Err(failure) => Err(failure.to_string()),
    }
}
