//! Topics of one test's own, and what somebody else's client reads from them.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::support::{foreign_client, from_test_run};

/// Names of one test's own at the broker that all tests share.
pub struct Topics {
    pub servers: String,
    pub name: String,
}

/// A record as another client sees it.
pub struct Record {
    pub key: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub partition: i64,
    pub at_ms: u64,
}

impl Topics {
    pub fn new() -> Self {
        Self::at(from_test_run("BRIDGE_TEST_KAFKA"))
    }

    pub fn at(servers: String) -> Self {
        Self { servers, name: format!("test-{}", Uuid::new_v4().simple()) }
    }

    pub fn sink(&self, more: &str) -> String {
        let (servers, name) = (self.servers.replace(',', "', '"), &self.name);
        format!(
            "{{kafka: {{bootstrap_servers: ['{servers}'], topic: {name}.notifications, ledger_topic: {name}.ledger, \
             dead_letter_topic: {name}.dead, transactional_id: {name}, create_topics: {{partitions: 3}}{more}}}}}"
        )
    }

    /// What a downstream service reads: `read_committed`, with a client that is not ours.
    pub fn read(&self, count: usize) -> Vec<Record> {
        self.read_from("notifications", count)
    }

    pub fn read_from(&self, topic: &str, count: usize) -> Vec<Record> {
        let topic = format!("{}.{topic}", self.name);
        let records = foreign_client("read_kafka.py", &[&self.servers, &topic, &count.to_string()]);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let record = |value: serde_json::Value| Record {
            key: text(&value["key"]),
            headers: value["headers"].as_array().unwrap().iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
            body: String::from_utf8(STANDARD.decode(value["body"].as_str().unwrap()).unwrap()).unwrap(),
            partition: value["partition"].as_i64().unwrap(),
            at_ms: value["at_ms"].as_u64().unwrap(),
        };
        records.into_iter().map(record).collect()
    }

    /// The first records of the notifications in this order, from a producer that is not ours, as a topic of its own.
    pub fn copy(&self, name: &str, order: &[usize]) {
        let order: Vec<String> = order.iter().map(usize::to_string).collect();
        let [from, to] = ["notifications", name].map(|topic| format!("{}.{topic}", self.name));
        foreign_client("copy_kafka.py", &[&self.servers, &from, &to, &order.join(",")]);
    }

    pub fn bodies(&self, count: usize) -> Vec<String> {
        self.read(count).into_iter().map(|record| record.body).collect()
    }
}
