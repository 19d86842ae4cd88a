//! The permissions that a bridge needs, as the commands that grant them.

use rdkafka::ClientConfig;

use crate::sink::kafka::options::Options;

/// A resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// All transactional ids of the bridge.
    Transactions,
    /// The consumer group by which replicas share.
    Group,
    /// Its topics.
    Topics,
}

/// The commands that grant the permissions on it to the user of the config.
pub(super) fn grant(right: Right, client: &ClientConfig, config: &Options) -> String {
    let servers = client.get("bootstrap.servers").unwrap_or_default();
    let user = client.get("sasl.username").unwrap_or("NAME");
    let begin = format!("kafka-acls.sh --bootstrap-server {servers} --add --allow-principal User:{user}");
    let id = &config.transactional_id;
    match right {
        Right::Transactions => {
            let what = "--operation Describe --operation Write";
            format!("{begin} {what} --transactional-id {id} --resource-pattern-type prefixed")
        }
        Right::Group => {
            format!("{begin} --operation Describe --operation Read --group {id} --resource-pattern-type prefixed")
        }
        Right::Topics => {
            let (topic, rest) =
                config.topic.split_once('{').map_or((&*config.topic, None), |(start, rest)| (start, Some(rest)));
            let (ledger, dead) = (&config.ledger_topic, &config.dead_letter_topic);
            let what = "--operation Describe --operation DescribeConfigs --operation Create --operation Write";
            let read = format!("{begin} --operation Read --topic {ledger}");
            match rest {
                None => format!("{begin} {what} --topic {topic} --topic {ledger} --topic {dead}\n{read}"),
                // Covers every value of the placeholder.
                Some(_) => format!(
                    "{begin} {what} --topic {topic} --resource-pattern-type prefixed\n{begin} {what} --topic {ledger} --topic \
                     {dead}\n{read}"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::kafka::broker::client;

    #[test]
    fn the_page_has_the_lines_that_grant_everything() {
        let mut config = Options { bootstrap_servers: vec!["kafka.example.com:9093".into()], ..Options::default() };
        config.properties.insert("sasl.username".into(), "bridge".into());
        let client = client::without_files(&config).unwrap();
        let lines = [Right::Topics, Right::Transactions, Right::Group].map(|right| grant(right, &client, &config));
        let page = include_str!("../../../../deploy/docs/kafka.md");
        assert!(page.contains(&format!("```console\n{}\n```", lines.join("\n"))), "{}", lines.join("\n"));
    }

    #[test]
    fn topics_that_depend_on_the_notification_are_granted_by_their_beginning() {
        let config = Options { topic: "of.{instance}.{type}".into(), ..Options::default() };
        let lines = grant(Right::Topics, &ClientConfig::new(), &config);
        assert!(lines.contains("--topic of. --resource-pattern-type prefixed\n"), "{lines}");
        assert!(lines.contains("User:NAME") && !lines.contains('{'), "{lines}");
    }
}
