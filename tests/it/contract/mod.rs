//! The contract of sinks, held against real brokers; and against sinks that break it, to see that it notices.

mod broken;

#[cfg(feature = "broker-tests")]
mod amqp {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use green_api_bridge::metrics::Metrics;
    use green_api_bridge::sink::contract_test::{self, Harness, Message};
    use green_api_bridge::sink::kind::{self, Options};
    use green_api_bridge::sink::{Sink, amqp};

    use crate::network::{Network, Weather};
    use crate::rabbitmq_queues::{Message as Delivery, Names};

    struct Queues {
        direct: Names,
        behind_network: String,
        network: Network,
        folder: tempfile::TempDir,
        /// What was taken from the queues.
        read: Mutex<Vec<Delivery>>,
    }

    #[async_trait]
    impl Harness for Queues {
        async fn start(&self) -> Arc<dyn Sink> {
            let Names { name, .. } = &self.direct;
            let mut amqp = amqp::Options { name: name.clone(), exchange: name.clone(), ..amqp::Options::default() };
            amqp.uri[0] = self.behind_network.as_str().into();
            amqp.queue = Some(self.direct.queue());
            amqp.dead_letter_queue = format!("{name}.dead");
            kind::start(&Options::Amqp(amqp), self.folder.path(), 1024, 1, &Metrics::new("contract")).unwrap()
        }

        async fn read(&self) -> Vec<Message> {
            let mut read = self.read.lock().unwrap();
            tokio::task::block_in_place(|| {
                read.extend(self.direct.read(0));
                read.extend(self.direct.read_from("dead", 0));
            });
            read.iter().map(message).collect()
        }

        fn remembers(&self) -> bool {
            false
        }

        fn unwanted(&self) -> Option<Vec<u8>> {
            Some(format!("\"{}\"", "x".repeat(17 << 20)).into_bytes())
        }

        async fn interrupt(&self) {
            self.network.becomes(Weather::Cut);
        }

        async fn restore(&self) {
            self.network.becomes(Weather::Fine);
        }
    }

    fn message(delivery: &Delivery) -> Message {
        let headers = delivery.value["headers"].as_object().unwrap();
        let attribute = |name: &str| name.strip_prefix("cloudEvents_").unwrap_or(name).to_owned();
        let attributes: Vec<(String, &str)> =
            headers.iter().filter_map(|(name, value)| Some((attribute(name), value.as_str()?))).collect();
        let attributes = attributes.iter().map(|(name, value)| (name.as_str(), *value));
        Message::new(attributes, delivery.body.clone().into_bytes()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rabbitmq_keeps_the_contract() {
        let direct = Names::new();
        let broker = direct.uri.split(['@', '/']).nth(3).unwrap().to_owned();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let near = format!("127.0.0.1:{port}");
        let network = Network::start(&near, &broker).await;
        let behind_network = direct.uri.replace(&broker, &near);
        let folder = tempfile::tempdir().unwrap();
        let queues = Queues { direct, behind_network, network, folder, read: Mutex::default() };
        contract_test::run(&queues).await;
        assert_eq!(letters(queues.folder.path()), 1, "what is too large for a queue is in the folder");
    }

    fn letters(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }
}

#[cfg(feature = "broker-tests")]
mod kafka {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use async_trait::async_trait;
    use green_api_bridge::metrics::Metrics;
    use green_api_bridge::sink::contract_test::{self, Harness, Message};
    use green_api_bridge::sink::kind::{self, Options};
    use green_api_bridge::sink::{Sink, kafka};
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{BorrowedMessage, Headers, Message as _};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    use crate::kafka_topics::Topics;
    use crate::support::foreign_client;

    /// The partition of everything, so that a reader sees the order.
    struct Ours {
        topics: Topics,
        folder: tempfile::TempDir,
    }

    #[async_trait]
    impl Harness for Ours {
        async fn start(&self) -> Arc<dyn Sink> {
            let Topics { servers, name } = &self.topics;
            let mut kafka = kafka::Options { transactional_id: name.clone(), ..kafka::Options::default() };
            kafka.bootstrap_servers[0].clone_from(servers);
            kafka.topic = format!("{name}.notifications");
            kafka.ledger_topic = format!("{name}.ledger");
            kafka.dead_letter_topic = format!("{name}.dead");
            let create = kafka.create_topics.as_mut().unwrap();
            create.partitions = 1;
            kind::start(&Options::Kafka(kafka), self.folder.path(), 1024, 1, &Metrics::new("contract")).unwrap()
        }

        async fn read(&self) -> Vec<Message> {
            let read = |topic| read(&self.topics.servers, &format!("{}.{topic}", self.topics.name));
            let mut messages = tokio::task::block_in_place(|| [read("notifications"), read("dead")].concat());
            messages.sort_by_key(|message| message.sequence);
            messages
        }

        fn remembers(&self) -> bool {
            true
        }

        fn unwanted(&self) -> Option<Vec<u8>> {
            Some(format!("\"{}\"", "x".repeat(17 << 20)).into_bytes())
        }

        async fn interrupt(&self) {
            let arguments = [self.topics.servers.as_str(), self.topics.name.as_str()];
            tokio::task::block_in_place(|| foreign_client("fence_kafka.py", &arguments));
        }

        async fn restore(&self) {}
    }

    /// All that is committed, in the order of the one partition.
    fn read(servers: &str, topic: &str) -> Vec<Message> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers).set("group.id", "contract").set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let known = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).unwrap();
        if known.topics().iter().all(|topic| topic.partitions().is_empty()) {
            return Vec::new();
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let (mut messages, begun) = (Vec::new(), Instant::now());
        while begun.elapsed() < Duration::from_secs(60) {
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(record)) => messages.push(message(&record).unwrap()),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return messages,
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
        panic!("{topic}: no end within a minute")
    }

    fn message(record: &BorrowedMessage<'_>) -> Option<Message> {
        let headers = record.headers()?.iter();
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        let attributes: Vec<(&str, String)> =
            headers.map(|header| (header.key.strip_prefix("ce_").unwrap_or(header.key), text(header.value))).collect();
        let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
        Message::new(attributes, record.payload().unwrap_or_default().to_vec())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn kafka_keeps_the_contract() {
        contract_test::run(&Ours { topics: Topics::new(), folder: tempfile::tempdir().unwrap() }).await;
    }
}
