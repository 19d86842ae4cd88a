//! A sink in one word, for the command line.

use secrecy::SecretString;

use super::{Amqp, File, Kafka, Sink, Stdout, address, unplaced};

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
    if topic.is_empty() || servers.split(',').any(str::is_empty) {
        return None;
    }
    let bootstrap_servers = servers.split(',').map(|server| unplaced(server.to_owned())).collect();
    Some(Sink::Kafka(Kafka { bootstrap_servers, topic: unplaced(topic.to_owned()), ..Kafka::default() }))
}

/// `exchange` and `queue` are ours; whatever else stands in the query is the AMQP client's.
fn amqp(text: &str) -> Result<Sink, String> {
    let (address, fragment) = text.split_at(text.find('#').unwrap_or(text.len()));
    let (address, query) = address.split_once('?').unwrap_or((address, ""));
    let mut amqp = Amqp::default();
    let (mut seen, mut rest) = (Vec::new(), url::form_urlencoded::Serializer::new(String::new()));
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if seen.contains(&name) {
            return Err(format!("{FORMS}, each name once"));
        }
        match &*name {
            "exchange" => amqp.exchange = value.into_owned(),
            "queue" => amqp.queue = Some(value.into_owned()),
            _ => drop(rest.append_pair(&name, &value)),
        }
        seen.push(name);
    }
    let rest = rest.finish();
    let mark = if rest.is_empty() { "" } else { "?" };
    let uri = format!("{address}{mark}{rest}{fragment}");
    address::amqp(&uri).map_err(|form| format!("{FORMS}; it {form}"))?;
    amqp.uri = vec![unplaced(SecretString::from(uri))];
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
        let servers: Vec<&str> = kafka.bootstrap_servers.iter().map(|server| server.value.as_str()).collect();
        assert_eq!((servers, kafka.topic.value.as_str()), (vec!["one:9092", "two:9093"], "wa.{instance}"));
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
            "amqp://u:secret@host/v#x",
            "amqp://u:secret@host/v?queue=a#x",
            "amqp://u:secret@host/v?queue=a&queue=b",
            "amqp://u:secret@host/v?heartbeat=5&heartbeat=6",
            "amqp://u:secret@host/v?exchang=e",
            "amqp://u:secret@host/a/../b?exchange=e",
            "amqp://u:sec ret@host/v",
        ] {
            let error = parse(odd).expect_err(odd);
            assert!(error.starts_with("expected stdout:") && !error.contains("secret"), "{odd}: {error}");
        }
    }
}
