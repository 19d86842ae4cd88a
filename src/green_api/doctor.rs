//! The checks of an instance at Green API.

use super::settings::{WEBHOOK_URL, required_changes};
use super::{Problem, Queue};
use crate::account::AccountState;
use crate::doctor::Check;
use crate::error::{Chain, SetupError};

/// Checks an instance with one `getStateInstance` and one `getSettings`, and never a `receiveNotification`. `kinds` are the
/// kinds of notification that should be switched on.
pub async fn examine(queue: &Queue, kinds: &[String]) -> Vec<Check> {
    let of = |check, found| Check::of(queue.instance(), check, found);
    let state = match queue.state().await {
        Ok(state) => state,
        Err(problem) => return vec![of("api", Err(described(&problem)))],
    };
    let mut checks = vec![of("api", Ok("reachable, and it takes the token".into())), of("state", judged(&state))];
    match queue.settings().await {
        Err(problem) => checks.push(of("settings", Err(described(&problem)))),
        Ok(settings) => {
            let changes = required_changes(&settings, kinds);
            checks.push(of(
                "webhook_url",
                if changes.contains_key(WEBHOOK_URL) {
                    // The URL may contain a secret.
                    Err("set, so the queue cannot be read: clear it with `green-api-bridge setup --apply`".into())
                } else {
                    Ok("empty: notifications are queued".into())
                },
            ));
            let off: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| changes.contains_key(*kind)).collect();
            checks.push(of(
                "webhooks",
                if off.is_empty() {
                    Ok("all wanted kinds are on".into())
                } else {
                    Err(format!("off: {}: switch them on with `green-api-bridge setup --apply`", off.join(", ")).into())
                },
            ));
        }
    }
    checks
}

fn described(problem: &Problem) -> SetupError {
    format!("{}: {}: {}", Chain(problem), problem.condition, problem.condition.advice()).into()
}

fn judged(name: &str) -> Result<String, SetupError> {
    let state = AccountState::named(name);
    // An answer is shown only if it is a single word.
    let name = if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) { name } else { "unknown" };
    let found = match state {
        AccountState::Authorized => name.to_owned(),
        AccountState::Suspended | AccountState::YellowCard => format!("{name}: sending is limited, receiving is not"),
        AccountState::Starting => format!("{name}: it restarts, which takes up to 5 minutes"),
        AccountState::NotAuthorized | AccountState::SleepMode | AccountState::PendingPassword => {
            format!("{name}: no new messages arrive until the account is logged in from the console")
        }
        AccountState::Blocked => format!("{name}: WhatsApp has banned the account"),
        AccountState::Other => format!("{name}: not a state that is known to receive"),
    };
    if state.receives() { Ok(found) } else { Err(found.into()) }
}
