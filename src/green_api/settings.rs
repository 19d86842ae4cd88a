//! The settings that an instance needs for its notifications to be queued.

use serde_json::{Map, Value};

/// If it is set, Green API pushes notifications instead of queueing them.
pub(crate) const WEBHOOK_URL: &str = "webhookUrl";

/// The settings that have to change: an empty `webhookUrl`, and these kinds of notification switched on. Missing and `null`
/// count as off.
pub(crate) fn required_changes(settings: &Map<String, Value>, kinds: &[String]) -> Map<String, Value> {
    let text = |name: &str| settings.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut changes = Map::new();
    if !text(WEBHOOK_URL).is_empty() {
        changes.insert(WEBHOOK_URL.into(), "".into());
    }
    for kind in kinds.iter().filter(|kind| text(kind) != "yes") {
        changes.insert(kind.clone(), "yes".into());
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_changed() {
        let settings = |value: Value| value.as_object().cloned().unwrap();
        let kinds = ["incomingWebhook", "stateWebhook"].map(str::to_owned);
        let ready =
            settings(json!({"webhookUrl": "", "incomingWebhook": "yes", "stateWebhook": "yes", "deviceWebhook": "no"}));
        assert!(required_changes(&ready, &kinds).is_empty());
        let new = settings(json!({"webhookUrl": "https://x", "incomingWebhook": "no", "stateWebhook": null}));
        let wanted = json!({"webhookUrl": "", "incomingWebhook": "yes", "stateWebhook": "yes"});
        assert_eq!(Value::Object(required_changes(&new, &kinds)), wanted);
        assert_eq!(required_changes(&Map::new(), &kinds).len(), 2);
    }
}
