//! A client goes to the host and the port that an accepted address was written with, and the address is never repeated.

#[cfg(feature = "amqp")]
use std::net::Ipv6Addr;

#[cfg(feature = "amqp")]
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::{SECRET, Target, seeds};
use crate::config::{Config, Instance};
#[cfg(feature = "amqp")]
use crate::sink::amqp;
#[cfg(feature = "kafka")]
use crate::sink::kafka;
use crate::sink::kind::Options;

/// The addresses of RabbitMQ's nodes.
#[cfg(feature = "amqp")]
pub const AMQP_URI: Target = Target { name: "amqp_uri", seeds: seeds::amqp_uris, check: check_amqp_uri };
/// The addresses of Kafka's brokers, separated by commas.
#[cfg(feature = "kafka")]
pub const KAFKA_SERVERS: Target =
    Target { name: "kafka_servers", seeds: seeds::kafka_servers, check: check_kafka_servers };

/// Whether a config with this sink is accepted.
fn is_accepted(sink: Options) -> bool {
    let instance = Instance {
        id: super::instance(),
        api_url: "https://host".to_owned().try_into().expect("an address"),
        api_token: Some(SecretString::from("token")),
        api_token_file: None,
        file: None,
    };
    let checked = Config::from_parts(instance, sink).map_err(|mistakes| mistakes.to_string());
    assert!(checked.as_ref().err().is_none_or(|error| !error.contains(SECRET)), "{checked:?}");
    checked.is_ok()
}

#[cfg(feature = "amqp")]
fn check_amqp_uri(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let uri = vec![SecretString::from(text)];
    if !is_accepted(Options::Amqp(amqp::Options { uri, ..amqp::Options::default() })) {
        return;
    }
    let (scheme, rest) = text.split_once("://").expect("a scheme");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = split(place);
    let usual = if scheme.eq_ignore_ascii_case("amqps") { 5671 } else { 5672 };
    assert!(!host.is_empty() && port != Some(0), "{text:?}");
    let (host_gone_to, port_gone_to) = amqp::destination(text).expect("the client can use it");
    assert_eq!(port_gone_to, port.unwrap_or(usual), "{text:?}");
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ipv6) => assert_eq!(host_gone_to.parse::<Ipv6Addr>(), ipv6.parse(), "{text:?}"),
        None => assert_eq!(host_gone_to, percent_decode_str(host).decode_utf8_lossy(), "{text:?}"),
    }
}

#[cfg(feature = "kafka")]
fn check_kafka_servers(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Options::from_url(&format!("kafka://{text}")) {
        Ok(Options::Kafka(kafka)) => {
            let topic = &kafka.topic;
            assert_eq!(format!("{}/{topic}", kafka.bootstrap_servers.join(",")), text, "every part of it is used");
        }
        Ok(other) => panic!("{text:?}: {other:?}"),
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
    let bootstrap_servers = vec![text.to_owned()];
    if !is_accepted(Options::Kafka(kafka::Options { bootstrap_servers, ..kafka::Options::default() })) {
        return;
    }
    for server in text.split(',').map(|server| server.trim_start_matches(' ')) {
        let (host, port) = split(server.split_once("://").map_or(server, |(_, place)| place));
        assert!(!host.is_empty() && port != Some(0), "{text:?}");
        assert_eq!(read_by_librdkafka(server), (host, port.unwrap_or(9092)), "{text:?}");
    }
}

/// HOST, HOST:PORT, `[IPV6]` or `[IPV6]:PORT`, and nothing else.
fn split(place: &str) -> (&str, Option<u16>) {
    let host = place.find(']').map_or_else(|| place.find(':'), |end| Some(end + 1)).unwrap_or(place.len());
    let (host, port) = place.split_at(host);
    let digits = if port.is_empty() { "" } else { port.strip_prefix(':').expect("a port, or nothing") };
    (host, (!digits.is_empty()).then(|| digits.parse().expect("a port")))
}

/// As its `rd_kafka_broker_name_parse` does it.
#[cfg(feature = "kafka")]
fn read_by_librdkafka(server: &str) -> (&str, u16) {
    let place = server.split_once("://").map_or(server, |(_, rest)| rest.split('/').next().unwrap_or_default());
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => (place, "9092"),
    };
    // `atoi`: the digits that it begins with, or 0.
    let digits = port.find(|letter: char| !letter.is_ascii_digit()).map_or(port, |end| &port[..end]);
    (if host.is_empty() { "localhost" } else { host }, digits.parse().unwrap_or(0))
}
