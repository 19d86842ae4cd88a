//! A sink in one word, for the command line.

use secrecy::SecretString;
use url::Url;

use super::{Amqp, File, Kafka, Sink, Stdout, unplaced};

const FORMS: &str = "expected stdout: | file:PATH | kafka://HOST:PORT[,HOST:PORT]/TOPIC | \
                     amqp(s)://USER:PASS@HOST:PORT/VHOST[?exchange=NAME&queue=NAME]";

/// The sink that `text` names, everything else at its default.
///
/// # Errors
/// The known forms. `text` itself is not repeated: it may hold a password.
pub fn parse(text: &str) -> Result<Sink, String> {
    match text.split_once(':') {
        Some(("stdout", "")) => Ok(Sink::Stdout(Stdout {})),
        Some(("file", path)) if !path.is_empty() => Ok(Sink::File(File { path: path.into() })),
        Some(("kafka", rest)) => kafka(rest).ok_or_else(|| FORMS.to_owned()),
        Some(("amqp" | "amqps", _)) => amqp(text),
        _ => Err(FORMS.to_owned()),
    }
}

fn kafka(rest: &str) -> Option<Sink> {
    let (servers, topic) = rest.strip_prefix("//")?.split_once('/')?;
    let bootstrap_servers: Vec<_> = servers.split(',').map(str::to_owned).collect();
    if topic.is_empty() || bootstrap_servers.iter().any(String::is_empty) {
        return None;
    }
    Some(Sink::Kafka(Kafka { bootstrap_servers, topic: unplaced(topic.to_owned()), ..Kafka::default() }))
}

/// `exchange` and `queue` are ours; whatever else stands in the query is the AMQP client's.
fn amqp(text: &str) -> Result<Sink, String> {
    let mut url = Url::parse(text).map_err(|_may_quote_a_password| FORMS.to_owned())?;
    let mut amqp = Amqp::default();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    for (name, value) in pairs {
        match name.as_str() {
            "exchange" => amqp.exchange = value,
            "queue" => amqp.queue = Some(value),
            _ => drop(url.query_pairs_mut().append_pair(&name, &value)),
        }
    }
    amqp.uri = vec![unplaced(SecretString::from(String::from(url)))];
    Ok(Sink::Amqp(amqp))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn each_form_names_its_sink() {
        assert!(matches!(parse("stdout:"), Ok(Sink::Stdout(_))));
        assert!(matches!(parse("file:a/b.jsonl"), Ok(Sink::File(file)) if file.path.ends_with("a/b.jsonl")));
        let Ok(Sink::Kafka(kafka)) = parse("kafka://one:9092,two:9093/wa.{instance}") else { panic!("kafka") };
        assert_eq!(
            (kafka.bootstrap_servers, kafka.topic.value.as_str()),
            (vec!["one:9092".to_owned(), "two:9093".to_owned()], "wa.{instance}")
        );
        let Ok(Sink::Amqp(amqp)) = parse("amqps://u:p@host:5671/%2f?exchange=e&heartbeat=5&queue=q") else {
            panic!("amqp")
        };
        assert_eq!((amqp.exchange.as_str(), amqp.queue.as_deref()), ("e", Some("q")));
        assert_eq!(amqp.uri[0].value.expose_secret(), "amqps://u:p@host:5671/%2f?heartbeat=5");
    }

    #[test]
    fn anything_else_is_told_the_forms_and_not_repeated() {
        for odd in [
            "",
            "stdout",
            "stdout:x",
            "file:",
            "kafka://host:1",
            "kafka:///topic",
            "kafka://,/t",
            "http://u:secret@h",
            "amqp://[secret",
        ] {
            let error = parse(odd).expect_err(odd);
            assert!(error.starts_with("expected stdout:") && !error.contains("secret"), "{odd}: {error}");
        }
    }
}
