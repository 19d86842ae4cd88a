//! From a notification to a record: topic, key, headers, value.

use std::borrow::Cow;

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::config::{self, Key};
use crate::notification::Notification;
use crate::sink::cloud_event::{self, CONTENT_TYPE, Place};

/// A record to produce.
pub(super) struct Record {
    pub topic: String,
    /// None: the partitioner chooses by the key.
    pub partition: Option<i32>,
    pub key: String,
    pub value: Bytes,
    pub headers: OwnedHeaders,
}

/// The record of a notification, its body shared.
pub(super) fn of(notification: &Notification, sequence: u64, config: &config::Kafka) -> Record {
    let facts = notification.facts();
    let place = Place { sequence, epoch: None, marked: false };
    let mut headers = OwnedHeaders::new_with_capacity(10);
    for (name, value) in cloud_event::attributes(notification, &facts, place) {
        headers = headers.insert(Header { key: &format!("ce_{name}"), value: Some(value.as_ref()) });
    }
    headers = headers.insert(Header { key: "content-type", value: Some(CONTENT_TYPE) });
    let instance = notification.instance().to_string();
    let topic = config.topic.value.replace("{instance}", &instance).replace("{type}", &facts.kind);
    let key = match config.key {
        Key::Instance => instance,
        Key::Chat => facts.chat.map_or(instance, Cow::into_owned),
    };
    Record { topic, partition: None, key, value: notification.body().clone(), headers }
}
