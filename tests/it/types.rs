//! Types that others' generators make of the schema, at work on every example.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use green_api_bridge::emulator;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::readme;
use crate::support::{from_test_run, run};

const ASYNCAPI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/asyncapi");

fn schema(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(Path::new(ASYNCAPI).join(name)).unwrap()).unwrap()
}

fn typed() -> Value {
    schema("notification.types.schema.json")
}

fn examples() -> Vec<Value> {
    let examples = emulator::notifications().map(|body| serde_json::from_str(body).unwrap());
    let mut examples: Vec<Value> = examples.collect();
    // A kind that is documented in two spellings.
    let spelt = |body: &&Value| body["messageData"]["typeMessage"] == "templateButtonsReplyMessage";
    let mut respelt = examples.iter().find(spelt).unwrap().clone();
    respelt["messageData"]["typeMessage"] = "templateButtonReplyMessage".into();
    examples.push(respelt);
    examples
}

/// The name of the type of a kind.
fn named(kind: &str) -> String {
    kind[..1].to_uppercase() + &kind[1..]
}

/// A kind that nobody knows yet.
const TOMORROW: &str = "tomorrow";

/// The names of the types of a body: the notification's, and its message's. There is none if either is unknown.
fn classes(body: &Value) -> Vec<String> {
    let kinds = [&body["typeWebhook"], &body["messageData"]["typeMessage"]];
    if kinds.iter().any(|kind| *kind == TOMORROW) {
        return Vec::new();
    }
    kinds.into_iter().filter_map(Value::as_str).map(named).collect()
}

/// The members of a union, by the constant that tells them apart, with what is said of them.
fn union<'a>(typed: &'a Value, union: &'a Value) -> Vec<(&'a str, &'a str)> {
    let property = union["discriminator"]["propertyName"].as_str().unwrap();
    let members = union["oneOf"].as_array().unwrap().iter().map(|member| {
        let reference = member["$ref"].as_str().unwrap();
        let definition = typed.pointer(&reference[1..]).expect(reference);
        let kind = definition["properties"][property]["const"].as_str().expect(reference);
        assert_eq!(reference, format!("#/$defs/{}", named(kind)));
        assert!(definition["required"].as_array().unwrap().contains(&property.into()), "{kind}");
        assert_eq!(union["discriminator"]["mapping"][kind], reference);
        (kind, reference)
    });
    let members: Vec<_> = members.collect();
    assert_eq!(members.len(), union["discriminator"]["mapping"].as_object().unwrap().len());
    members
}

/// The definitions that this refers to, and those that they refer to.
fn add_referred(typed: &Value, value: &Value, referred: &mut Map<String, Value>) {
    match value {
        Value::Object(object) => object.values().for_each(|value| add_referred(typed, value, referred)),
        Value::Array(array) => array.iter().for_each(|value| add_referred(typed, value, referred)),
        Value::String(text) => {
            if let Some(name) = text.strip_prefix("#/$defs/")
                && !referred.contains_key(name)
            {
                referred.insert(name.to_owned(), typed["$defs"][name].clone());
                add_referred(typed, &typed["$defs"][name], referred);
            }
        }
        _ => (),
    }
}

/// The schema of every body: it says of the known kinds what the types say, and of messages as little as of other kinds.
fn open() -> Value {
    let mut typed = typed();
    typed["$defs"]["MessageData"] = json!({
        "title": "MessageData",
        "description": "The message.",
        "type": "object",
        "required": ["typeMessage"],
        "properties": {
            "typeMessage": {
                "type": "string",
                "description": "textMessage, imageMessage and many more; the member that holds the message is named after it.",
            },
        },
    });
    let by_kind = union(&typed, &typed).into_iter().map(|(kind, reference)| {
        let is_of_kind =
            json!({"type": "object", "required": ["typeWebhook"], "properties": {"typeWebhook": {"const": kind}}});
        json!({"if": is_of_kind, "then": {"$ref": reference}})
    });
    let by_kind: Vec<Value> = by_kind.collect();
    let mut definitions = Map::new();
    add_referred(&typed, &by_kind.clone().into(), &mut definitions);
    json!({
        "$schema": typed["$schema"],
        "$id": "https://green-api-bridge.example/notification.schema.json",
        "title": "A notification's body, as Green API sent it",
        "description": "The value of every record and message. It is open: Green API adds members and kinds without notice, and the bridge publishes them unchanged. Of the kinds known here it says what was always there. To generate types from there is notification.types.schema.json.",
        "type": ["object", "array", "string", "number", "boolean", "null"],
        "allOf": by_kind,
        "$defs": definitions,
    })
}

#[test]
fn the_schema_of_every_body_says_what_the_types_say() {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("notification.schema.json");
    fs::write(&made, format!("{:#}\n", open())).unwrap();
    assert!(schema("notification.schema.json") == open(), "copy {} to {ASYNCAPI}", made.display());
}

/// Adds to every object that its members are all there are, unless it says that they are not.
fn close(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        if object.contains_key("properties") && object.get("type").is_some_and(|kind| kind == "object") {
            object.entry("additionalProperties").or_insert(false.into());
        }
        object.values_mut().for_each(close);
    }
}

#[test]
fn every_example_is_of_a_type_that_describes_every_member_of_it() {
    let typed = typed();
    for (name, definition) in typed["$defs"].as_object().unwrap() {
        assert_eq!(definition["title"], name.as_str());
    }
    let unions = [union(&typed, &typed), union(&typed, &typed["$defs"]["MessageData"])];
    let known: BTreeSet<&str> = unions.iter().flatten().map(|(kind, _)| *kind).collect();
    let examples = examples();
    let shown = examples.iter().flat_map(|body| [&body["typeWebhook"], &body["messageData"]["typeMessage"]]);
    assert_eq!(shown.filter_map(Value::as_str).collect::<BTreeSet<_>>(), known);
    let mut closed = typed.clone();
    close(&mut closed);
    let [typed, closed] = [typed.clone(), closed].map(|schema| jsonschema::validator_for(&schema).unwrap());
    for mut body in examples.clone() {
        if let Some(error) = closed.iter_errors(&body).next() {
            panic!("{error} in {body}");
        }
        body["added"] = json!({"by": "Green API"});
        assert!(typed.is_valid(&body) && !closed.is_valid(&body), "{body}");
        body["typeWebhook"] = TOMORROW.into();
        assert!(!typed.is_valid(&body), "{body}");
    }
}

/// A folder with the schema and what a command of the page generates from it. The command begins with this.
fn generated(generator: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(ASYNCAPI).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let line = readme::command_of("consuming.md", generator);
    let (code, _, output) = run(Command::new("sh").args(["-ec", &line]).env("PATH", tools()).current_dir(&folder));
    assert_eq!(code, 0, "{line}: {output}");
    folder
}

/// A program of tests/clients.
fn client(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Where the generators are.
fn tools() -> String {
    let python = PathBuf::from(from_test_run("BRIDGE_TEST_PYTHON"));
    let node = from_test_run("BRIDGE_TEST_NODE_PATH");
    format!("{}:{node}/.bin:{}", python.parent().unwrap().display(), std::env::var("PATH").unwrap())
}

/// The examples, and what they may be one day: of kinds that nobody knows yet, if `has_members` with such members, too.
fn examples_of_tomorrow(has_members: bool) -> Vec<Value> {
    let mut bodies = examples();
    let text = bodies.iter().find(|body| body["messageData"]["typeMessage"] == "textMessage").unwrap().clone();
    for kind in ["/typeWebhook", "/messageData/typeMessage"] {
        let mut unknown = text.clone();
        *unknown.pointer_mut(kind).unwrap() = TOMORROW.into();
        bodies.push(unknown);
    }
    if has_members {
        for mut body in examples() {
            body["added"] = json!({"by": ["Green API"]});
            body["instanceData"]["added"] = json!(1.5);
            bodies.push(body);
        }
    }
    bodies
}

/// A program that parses and prints bodies prints what they are, and each is an object of its own class.
fn assert_parses(program: &mut Command, bodies: &[Value]) {
    let lines = tempfile::NamedTempFile::new().unwrap();
    fs::write(&lines, bodies.iter().map(|body| format!("{body}\n")).collect::<Vec<_>>().concat()).unwrap();
    let (code, stdout, stderr) = run(program.arg(lines.path()));
    assert_eq!(code, 0, "{stderr}");
    let parsed: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.len(), bodies.len(), "{stderr}");
    for (body, parsed) in bodies.iter().zip(parsed) {
        assert_eq!(parsed["classes"], json!(classes(body)), "{body}");
        assert_eq!(&parsed["body"], body);
    }
}

#[cfg(feature = "broker-tests")]
#[test]
fn python_parses_every_example_into_its_own_class_and_prints_it_again() {
    let folder = generated("datamodel-codegen");
    let mut python = Command::new(from_test_run("BRIDGE_TEST_PYTHON"));
    python.arg(client("read_types.py")).env("PYTHONPATH", folder.path());
    assert_parses(&mut python, &examples_of_tomorrow(true));
}

/// TypeScript checks types when it compiles: that each body is one of the union, without a member too many, and that its kinds
/// narrow the union to its own types.
#[cfg(feature = "broker-tests")]
#[test]
fn typescript_narrows_every_example_to_its_own_type() {
    let folder = generated("json2ts");
    let of_body = |body: &Value| {
        let kind = &body["typeWebhook"];
        let (is_kind, narrowed) = match &body["messageData"]["typeMessage"] {
            Value::Null => (String::new(), "[body]"),
            message => (format!(" && body.messageData.typeMessage === {message}"), "[body, body.messageData]"),
        };
        let names: Vec<String> = classes(body).iter().map(|name| format!("types.{name}")).collect();
        format!(
            "((body: types.Notification): [{}] => {{ if (body.typeWebhook === {kind}{is_kind}) return {narrowed}; throw body; }})({body});\n",
            names.join(", ")
        )
    };
    let program: String = examples().iter().map(of_body).collect();
    fs::write(folder.path().join("program.ts"), format!("import type * as types from './notification';\n{program}"))
        .unwrap();
    let mut tsc = Command::new("tsc");
    tsc.args(["--strict", "--noEmit", "program.ts"]).env("PATH", tools()).current_dir(&folder);
    let (code, errors, _) = run(&mut tsc);
    assert_eq!(code, 0, "{errors}");
}

#[cfg(feature = "broker-tests")]
#[test]
fn java_parses_every_example_into_its_own_class_and_prints_it_again() {
    let folder = generated("openapi-generator-cli generate --generator-name java");
    let broker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/brokers/kafka");
    let (code, libraries, shown) = run(Command::new(broker).arg("fetch"));
    assert_eq!(code, 0, "{shown}");
    // Jackson is among Kafka's.
    let path = format!("{}/*:classes", libraries.trim());
    let mut javac = Command::new("javac");
    javac.args(["-proc:none", "-d", "classes", "-cp", &path, "-sourcepath", "java/src/main/java"]);
    let (code, _, errors) = run(javac.arg(client("ReadTypes.java")).current_dir(&folder));
    assert_eq!(code, 0, "{errors}");
    let mut java = Command::new("java");
    java.args(["-cp", &path, "ReadTypes"]).current_dir(&folder);
    // Its classes have no place for unknown members.
    assert_parses(&mut java, &examples_of_tomorrow(false));
}

#[cfg(feature = "broker-tests")]
#[ignore = "needs Go: `tests/run --long`"]
#[test]
fn go_parses_every_example_into_its_own_type_and_prints_it_again() {
    let folder = generated("openapi-generator-cli generate --generator-name go");
    fs::write(folder.path().join("go.mod"), "module types\n\ngo 1.19\n").unwrap();
    fs::copy(client("read_types.go"), folder.path().join("main.go")).unwrap();
    assert_parses(Command::new("go").args(["run", "."]).current_dir(&folder), &examples_of_tomorrow(true));
}
