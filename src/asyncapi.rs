//! What a config publishes, as an AsyncAPI document: `deploy/asyncapi`, with the operator's own servers, topics and queues.

use serde_json::{Map, Value, json};

use crate::error::SetupError;
use crate::kinds;

/// The document for the defaults, of which the parts that do not depend on a config are taken.
const SHIPPED: &str = include_str!("../deploy/asyncapi/asyncapi.yaml");
const BODY: &str = include_str!("../deploy/asyncapi/notification.schema.json");
/// Where the schema of the body stands in a document of one piece.
const BODY_PLACE: &str = "#/components/schemas/notification";

/// What the document has of a sink.
pub(crate) struct Description {
    /// The shipped channels, operations and messages that it takes begin with this.
    pub kind: &'static str,
    /// Objects of the specification, with neither user nor password.
    pub servers: Vec<Value>,
    /// Where the notifications go: members of the channel that differ from the shipped one's.
    pub channel: Value,
    /// The same of the dead letters.
    pub dead_letters: Value,
}

/// The document of a sink.
///
/// # Errors
/// Never for the shipped files, which a test reads.
pub(crate) fn document(description: Description) -> Result<Value, SetupError> {
    let unreadable = |error: &dyn std::fmt::Display| SetupError::from(format!("the shipped document: {error}"));
    let mut document: Value = serde_saphyr::from_str(SHIPPED).map_err(|error| unreadable(&error))?;
    let body = BODY.replace("\"#/$defs/", &format!("\"{BODY_PLACE}/schema/$defs/"));
    let mut body: Value = serde_json::from_str(&body).map_err(|error| unreadable(&error))?;
    for of_a_file in ["$schema", "$id"] {
        body.as_object_mut().map(|body| body.remove(of_a_file));
    }
    let Description { kind, servers, channel, dead_letters } = description;
    let servers: Map<String, Value> =
        servers.into_iter().enumerate().map(|(index, server)| (format!("broker{}", index + 1), server)).collect();
    let references: Vec<Value> = servers.keys().map(|name| json!({"$ref": format!("#/servers/{name}")})).collect();
    document["servers"] = servers.into();
    let names = [kind.to_owned(), format!("{kind}DeadLetters")];
    retain(&mut document["channels"], |name, _| names.iter().any(|kept| kept == name));
    for (name, members) in names.iter().zip([channel, dead_letters]) {
        let channel = &mut document["channels"][name];
        channel["servers"] = references.clone().into();
        if let (Some(channel), Value::Object(members)) = (channel.as_object_mut(), members) {
            channel.extend(members);
        }
        if let Some(address) = document["channels"][name]["address"].as_str() {
            let parameters = parameters(address);
            if !parameters.is_empty() {
                document["channels"][name]["parameters"] = parameters.into();
            }
        }
    }
    let channels: Vec<String> = names.iter().map(|name| format!("#/channels/{name}")).collect();
    retain(&mut document["operations"], |_, operation| {
        channels.iter().any(|channel| operation["channel"]["$ref"] == channel.as_str())
    });
    let components = &mut document["components"];
    retain(&mut components["messages"], |name, _| name == kind);
    components["messages"][kind]["payload"] = json!({"$ref": BODY_PLACE});
    components["schemas"]["notification"] =
        json!({"schemaFormat": "application/schema+json;version=draft-07", "schema": body});
    Ok(document)
}

fn retain(object: &mut Value, is_kept: impl Fn(&str, &Value) -> bool) {
    if let Some(object) = object.as_object_mut() {
        object.retain(|name, value| is_kept(name, value));
    }
}

/// The placeholders of an address.
fn parameters(address: &str) -> Map<String, Value> {
    let all = [
        ("instance", json!({"description": "The idInstance."})),
        ("type", json!({"description": "The typeWebhook.", "enum": kinds::in_topics()})),
        ("message", json!({"description": "The typeMessage.", "enum": kinds::messages_in_topics()})),
        (
            "chat",
            json!({"description": "The kind of the chat.", "enum": ["private", "group", "channel", "status", "broadcast", "none", "other"]}),
        ),
    ];
    let used = all.into_iter().filter(|(name, _)| address.contains(&format!("{{{name}}}")));
    used.map(|(name, parameter)| (name.to_owned(), parameter)).collect()
}
