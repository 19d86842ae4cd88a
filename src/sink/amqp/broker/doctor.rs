//! Examines RabbitMQ: login, exchange and queues. Takes no ownership and declares nothing.

use super::connection::{self, Examined, Secrets};
use crate::doctor::Check;
use crate::error::SetupError;
use crate::sink::amqp::options::Options;
use crate::sink::session::SessionError;

pub(super) fn examine(config: &Options) -> Vec<Check> {
    let secrets = match Secrets::read(config) {
        Ok(secrets) => secrets,
        Err(why) => return vec![Check::of_sink("config", Err(why))],
    };
    let mut checks = vec![Check::of_sink("config", Ok("secrets can be read".into()))];
    // With `declare: false` everything is declared passively.
    let looking = Options { declare: false, ..config.clone() };
    for (place, examined) in connection::examine(&secrets, &looking) {
        let (topology, rejected) = match examined {
            Examined::Unreachable(failure) => {
                checks.push(Check::of_sink("broker", Err(format!("{place}: {failure}").into())));
                continue;
            }
            Examined::Lacks(failure) => (Err(failure), None),
            Examined::Complete { rejected } => (Ok(()), rejected),
        };
        checks.push(Check::of_sink("broker", Ok(format!("{place}: logged in"))));
        if let (Some(count), Some(queue)) = (rejected, &config.queue) {
            let found = format!("{queue}.rejected: {count} message(s) that a consumer handed back too often");
            checks.push(Check::of_sink("rejected", Ok(found)));
        }
        checks.push(Check::of_sink("topology", judged(topology, config.declare)));
    }
    checks.push(Check::of_sink("guarantee", Ok("confirmed; what may be a second copy is marked".into())));
    checks
}

fn judged(topology: Result<(), SessionError>, declare: bool) -> Result<String, SetupError> {
    match topology {
        Ok(()) => Ok("exchange and queues exist".into()),
        Err(SessionError::Unavailable(missing)) if declare => Ok(format!("to be declared: {missing}")),
        Err(failure) => Err(failure.to_string().into()),
    }
}
