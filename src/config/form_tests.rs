use secrecy::ExposeSecret;

use super::tests::{INSTANCE, mistakes, parse};
use super::*;

#[test]
fn variables_are_values_and_cannot_change_the_document() {
    let text = r"
instances:
  - id: 1101
    api_url: https://host
    api_token: ${TOKEN}
api:
  receive_timeout_secs: ${SECONDS}
sink:
  file:
    path: ${FILE:-a.jsonl}
";
    let config = parse(text).unwrap();
    assert_eq!(config.instances[0].api_token.as_ref().unwrap().expose_secret(), "{from:[the,environment");
    assert_eq!(config.api.receive_timeout(), Duration::from_secs(30));
    assert!(matches!(config.sink, Options::File(file) if file.path.ends_with("a.jsonl")));
    let missing = mistakes(&format!("{INSTANCE}sink:\n  file:\n    path: ${{NOWHERE}}\n"));
    assert!(missing.starts_with("4:11:") && missing.contains("NOWHERE"), "{missing}");
}

#[test]
fn variables_are_expanded_once_in_plain_and_in_quoted_values() {
    let variables = [("A", "${B} $C"), ("B", "b"), ("N", "30"), ("EMPTY", "")];
    let variables = || variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
    let parsed = |value: &str| {
        let text = format!("{INSTANCE}sink:\n  file:\n    path: {value}\n");
        let config = Config::from_text(&text, variables())?;
        let Options::File(file) = config.sink else { unreachable!("a file") };
        Ok::<_, Mistakes>(file.path.to_str().unwrap().to_owned())
    };
    for (value, expanded) in [
        ("x${B}y", "xby"),
        ("'x${B}y'", "xby"),
        ("\"x${B}y${NONE:-z}\"", "xbyz"),
        ("'${A}'", "${B} $C"),
        ("${A}", "${B} $C"),
        ("'${EMPTY:-e}$$'", "e$"),
        ("a$$b", "a$b"),
        ("'a$${B}'", "a${B}"),
        ("\"$B $ $1 a$\"", "$B $ $1 a$"),
        ("$B", "$B"),
        ("'${NONE:-$B}'", "$B"),
        ("'${NONE:-${B}}'", "b"),
    ] {
        assert_eq!(parsed(value).unwrap(), expanded, "{value}");
    }
    let wrong = "4:11: `path`: `${` must be followed by a variable's name and `}`, as in ${NAME} or ${NAME:-default}";
    for value in ["${1s3cret}", "'${1s3cret}'", "'${}'", "'${s3cret'", "'${s3cret !}'"] {
        assert_eq!(parsed(value).unwrap_err().to_string().replace("bridge.yaml:", ""), wrong, "{value}");
    }
    for value in ["${NONE}", "'${NONE}'", "'$x ${NONE}'"] {
        assert_eq!(
            parsed(value).unwrap_err().to_string(),
            "bridge.yaml:4:11: `path`: the variable `NONE` is not set",
            "{value}"
        );
    }
    let text = format!("{INSTANCE}api: {{receive_timeout_secs: '${{N}}'}}\nsink: {{stdout: {{}}}}\n");
    assert_eq!(Config::from_text(&text, variables()).unwrap().api.receive_timeout(), Duration::from_secs(30));
    // The column is that of the file, although the parser got another text.
    let text = "instances: [{id: 1, api_url: 'https://host', api_token: $a$b, x: 1}]\nsink: {stdout: {}}\n";
    assert!(mistakes(text).starts_with("1:63: unknown key `x`"), "{}", mistakes(text));
}

#[test]
fn all_unknown_keys_are_reported_with_the_mistake_of_form() {
    let text = r"
instances:
  - {id: 1, api_url: 'https://host', api_tokn: a}
  - {id: 2, api_url: 'https://host', token: a}
apii: {}
api: {receive_timeout_sec: 3}
sink:
  kafka:
    topik: x
    create_topics: {partitoins: 1}
    properties: {anything.goes: x}
    bootstrap_servers: {}
";
    assert_eq!(
        mistakes(text),
        "3:38: unknown key `api_tokn`: did you mean `api_token`?\n4:38: unknown key `token`: did you mean `api_token`?\n\
         5:1: unknown key `apii`: did you mean `api`?\n\
         6:7: unknown key `receive_timeout_sec`: did you mean `receive_timeout_secs`?\n\
         9:5: unknown key `topik`: did you mean `topic`?\n\
         10:21: unknown key `partitoins`: did you mean `partitions`?"
    );
    assert_eq!(mistakes(&format!("{INSTANCE}sinc: {{}}\n")), "2:1: unknown key `sinc`: did you mean `sink`?");
    assert_eq!(
        mistakes(&format!("{INSTANCE}sink:\n  rabbitmq: {{}}\n")),
        "3:3: unknown key `rabbitmq`: did you mean `amqp`?"
    );
}

#[test]
fn mistakes_of_form_and_of_meaning_are_reported_together() {
    let text = r"
instances: [{id: 1, api_url: 'https://host/?s3cret', api_token: s3cret}]
sink:
  amqp: {queue_type: quorm, routing_key: '{kind}', declare: perhaps, uri: 'http://host'}
api: {receive_timeout_secs: 61, proxy: 'socks5://host'}
log: {level: verbose, format: text}
admin: {listen: 9464}
shards: many
";
    let shown = mistakes(text);
    let places: Vec<&str> = shown.lines().map(|line| line.split(": ").next().unwrap()).collect();
    // In the order in which they are found; what is looked at after the parser is by itself.
    assert_eq!(
        places,
        ["2:30", "4:22", "4:61", "5:40", "6:14", "6:31", "7:17", "8:9", "5:29", "4:75", "4:42"],
        "{shown}"
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_refused_protocol_is_not_repeated() {
    let with =
        |protocol: &str| format!("{INSTANCE}sink:\n  kafka:\n    properties: {{security.protocol: {protocol}}}\n");
    assert_eq!(
        mistakes(&with("s3cret")),
        "4:37: `security.protocol` must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
    );
    assert!(parse(&with("sasl_ssl")).is_ok());
}

#[test]
fn any_number_of_instances_fits_into_one_file() {
    let instances: Vec<String> =
        (1..=40_000).map(|id| format!("  - {{id: {id}, api_url: 'https://host', api_token: t0ken}}\n")).collect();
    let config = parse(&format!("instances:\n{}sink: {{stdout: {{}}}}\n", instances.concat())).unwrap();
    assert_eq!(config.instances.len(), 40_000);
}

#[test]
fn mistakes_of_form_have_a_place_and_the_nearest_right_key() {
    let sink = |rest: &str| mistakes(&format!("{INSTANCE}{rest}"));
    assert_eq!(sink("sink: {stdout: {}}\nadmn: null\n"), "3:1: unknown key `admn`: did you mean `admin`?");
    assert_eq!(sink("sink:\n  kafka:\n    topik: x\n"), "4:5: unknown key `topik`: did you mean `topic`?");
    assert_eq!(sink("sink:\n  kafak: {}\n"), "3:3: unknown key `kafak`: did you mean `kafka`?");
    assert_eq!(sink("sink:\n  kafka:\n    key: chta\n"), "4:10: `key`: unknown value `chta`: did you mean `chat`?");
    assert_eq!(
        sink("sink: {stdout: {}}\napi:\n  receive_timeout_secs: soon\n"),
        "4:25: `receive_timeout_secs`: wrong type: expected a whole number"
    );
    assert_eq!(
        sink("sink: {stdout: {}}\napi:\n  receive_timeout_secs: [1]\n"),
        "4:25: `receive_timeout_secs`: wrong type: expected string scalar"
    );
    assert_eq!(sink(""), "1:1: the key `sink` is missing");
    assert_eq!(
        sink("sink: {kafka: {}, amqp: {}}\n"),
        "2:19: exactly one of `kafka`, `amqp`, `file` and `stdout` may be given"
    );
    assert_eq!(sink("sink:\n\tstdout: {}\n"), "3:2: a tab in the indentation: YAML is indented with spaces");
    assert_eq!(sink("sink: {stdout: {}\n"), "2:7: `sink`: unclosed bracket '{'");
    assert_eq!(
        sink("sink: {stdout: {}}\nadmin: {listen: nowhere}\n"),
        "3:17: `listen`: must look like 127.0.0.1:9464, or be off"
    );
    assert_eq!(
        sink("sink: {stdout: {}}\napi: {proxy: nowhere}\n"),
        "3:14: `proxy`: must look like http://HOST:PORT or https://USER:PASSWORD@HOST:PORT"
    );
    assert_eq!(
        mistakes("instances: [{id: 1, api_url: 'ftp://h', api_token: x}]\nsink: {stdout: {}}\n"),
        "1:30: `api_url`: must look like https://1101.api.greenapi.com, without user, query or token"
    );
}

#[test]
fn no_mistake_shows_a_secret() {
    for text in [
        "instances: [{id: 1, api_url: 'https://host', api_token: [s3cret]}]\nsink: {stdout: {}}\n",
        "instances: [{id: s3cret, api_url: 'https://host', api_token: s3cret}]\nsink: {stdout: {}}\n",
        "instances: [{id: 1, api_url: 's3cret', api_token: s3cret, x: 1}]\nsink: {stdout: {}}\n",
        "instances: [{id: 1, api_url: 'https://host/?s3cret', api_token: s3cret}]\nsink: {amqp: {uri: {s3cret: 1}}}\n",
        "instances: [{id: 1, api_url: 'https://host', api_token: s3cret}]\nsink: amqp://user:s3cret@host/vhost\n",
        "instances:\n  - id: 1\n    api_url: https://host\n    api_token: ${1s3cret}\nsink: {stdout: {}}\n",
        "instances: [{id: 1, api_url: 'https://host', api_token: s3cret}]\nsink: {amqp: {uri: 'amqp:user:s3cret@host'}}\n",
        "instances: [{id: 1, api_url: 'https://u:s3cret@host', api_token: s3cret}]\nsink: {amqp: {uri: 's3cret'}}\n",
    ] {
        let shown = mistakes(text);
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let config = parse(
        "instances: [{id: 1, api_url: 'https://host', api_token: s3cret}]\nsink: {amqp: {uri: 'amqp://u:s3cret@h'}}\napi: {proxy: 'http://u:s3cret@h'}",
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
}
