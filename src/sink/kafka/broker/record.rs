//! Conversion of notifications to records: topic, key, headers, value.

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::notification::Notification;
use crate::sink::cloud_event::{self, Position};
use crate::sink::kafka::options::{Key, Options};

/// A record to produce.
pub(super) struct Record {
    pub topic: String,
    /// `None`: chosen by the partitioner from the key.
    pub partition: Option<i32>,
    pub key: String,
    pub value: Bytes,
    pub headers: OwnedHeaders,
}

/// The record of a notification for this topic. Shares the body.
pub(super) fn of(notification: &Notification, topic: String, position: &Position, config: &Options) -> Record {
    let mut headers = OwnedHeaders::new_with_capacity(12);
    for (name, value) in cloud_event::attributes(notification, position) {
        headers = headers.insert(Header { key: &format!("ce_{name}"), value: Some(value.as_ref()) });
    }
    headers = headers.insert(Header { key: "content-type", value: Some(cloud_event::content_type(notification)) });
    let key = match (config.key, &notification.facts().chat) {
        (Key::Chat, Some(chat)) => chat.clone(),
        (Key::Instance | Key::Chat, _) => notification.instance().to_string(),
    };
    Record { topic, partition: None, key, value: notification.body().clone(), headers }
}
