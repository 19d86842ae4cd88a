//! The lines of the sinks `file` and `stdout`, and of dead letters in the folder: one `CloudEvents` JSON object, attributes
//! first, the member `data` last, with the body embedded unparsed.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::cloud_event::{self, Position};
use crate::notification::Notification;
use crate::verify::Published;

/// Appends the line of a notification, line feed included.
pub(super) fn write_line(
    line: &mut Vec<u8>,
    notification: &Notification,
    position: &Position,
) -> serde_json::Result<()> {
    let attributes = cloud_event::attributes(notification, position);
    line.push(b'{');
    for (name, value) in attributes.iter().chain([&("datacontenttype", cloud_event::content_type(notification).into())])
    {
        serde_json::to_writer(&mut *line, name)?;
        line.push(b':');
        serde_json::to_writer(&mut *line, value)?;
        line.push(b',');
    }
    let body = notification.body();
    if notification.is_malformed() || body.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        line.extend(b"\"data_base64\":");
        serde_json::to_writer(&mut *line, &STANDARD.encode(body))?;
    } else {
        line.extend(b"\"data\":");
        line.extend_from_slice(body);
    }
    line.extend(b"}\n");
    Ok(())
}

/// A whole line: the attributes and the body.
pub(super) fn parse(line: &[u8]) -> Option<(Published, Vec<u8>)> {
    let (attributes, body) = attributes_and_body(line)?;
    Some((Published::from_attributes(attributes.iter().map(|(name, value)| (*name, value.as_str())))?, body))
}

/// Names and values.
pub(super) type Attributes<'a> = Vec<(&'a str, String)>;

pub(super) fn attributes_and_body(line: &[u8]) -> Option<(Attributes<'_>, Vec<u8>)> {
    let members: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).ok()?;
    let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
    let body = match members.get("data") {
        Some(data) => data.get().as_bytes().to_vec(),
        None => STANDARD.decode(text(members.get("data_base64")?)?).ok()?,
    };
    let attributes = members.iter().filter(|(name, _)| !name.starts_with("data"));
    Some((attributes.filter_map(|(name, value)| Some((*name, text(value)?))).collect(), body))
}

/// The messages of whole lines, for the contract test.
#[cfg(test)]
pub(super) fn read_messages(lines: &[u8]) -> Vec<super::contract_test::Message> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let message = |line| {
        let (attributes, body) = attributes_and_body(line).unwrap();
        let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
        super::contract_test::Message::new(attributes, body).unwrap()
    };
    lines.map(message).collect()
}
