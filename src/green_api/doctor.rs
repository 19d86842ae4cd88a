//! Asks Green API whether an instance is as it should be.

use super::{Problem, Queue};
use crate::doctor::Check;

/// Asks Green API about an instance: `getStateInstance` and `getSettings`, once each, never
/// `receiveNotification`. `kinds` are the notification switches that should be on.
pub async fn examine(queue: &Queue, kinds: &[String]) -> Vec<Check> {
    let of = |check, found| Check::of(queue.instance(), check, found);
    let state = match queue.state().await {
        Ok(state) => state,
        Err(problem) => return vec![of("api", Err(told(&problem)))],
    };
    let mut checks = vec![of("api", Ok("reachable, and it takes the token".into())), of("state", judged(&state))];
    match queue.settings().await {
        Err(problem) => checks.push(of("settings", Err(told(&problem)))),
        Ok(settings) => {
            let text = |name: &str| settings.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
            checks.push(of(
                "webhook_url",
                if text("webhookUrl").is_empty() {
                    Ok("empty: notifications are queued".into())
                } else {
                    // It may hold a secret of its owner.
                    Err("set, so the queue cannot be read: clear it with `green-api-bridge setup --apply`".into())
                },
            ));
            let off: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| text(kind) != "yes").collect();
            checks.push(of(
                "webhooks",
                if off.is_empty() {
                    Ok("all wanted kinds are on".into())
                } else {
                    Err(format!("off: {}: switch them on with `green-api-bridge setup --apply`", off.join(", ")))
                },
            ));
        }
    }
    checks
}

fn told(problem: &Problem) -> String {
    format!("{problem}: {}: {}", problem.condition, problem.condition.advice())
}

fn judged(state: &str) -> Result<String, String> {
    // The server's own word, but only if it is one: an answer must not get into a log unseen.
    let state = if state.bytes().all(|byte| byte.is_ascii_alphanumeric()) { state } else { "unknown" };
    match state {
        "authorized" => Ok(state.into()),
        "suspended" | "yellowCard" => Ok(format!("{state}: sending is limited, receiving is not")),
        "starting" => Err("starting: it restarts, which takes up to 5 minutes".into()),
        "notAuthorized" | "sleepMode" | "pendingPassword" => {
            Err(format!("{state}: no new messages arrive until the account is logged in from the console"))
        }
        "blocked" => Err("blocked: WhatsApp has banned the account".into()),
        other => Err(format!("{other}: not a state that is known to receive")),
    }
}
