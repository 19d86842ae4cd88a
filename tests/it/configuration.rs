//! The table of the configuration in `deploy/docs` is what `config schema` says.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{command, run};

const BEGIN: &str = "<!-- the configuration: written by tests/it/configuration.rs -->\n";
const END: &str = "<!-- the end of the configuration -->\n";

#[test]
fn the_table_on_the_page_is_what_the_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect(BEGIN);
    let (shown, after) = rest.split_once(END).expect(END);
    let table = table();
    if std::env::var_os("BRIDGE_TEST_WRITE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(shown == table, "the table is old: BRIDGE_TEST_WRITE=1 cargo test --test it configuration::");
    }
    assert!(table.lines().count() > 30, "{table}");
    for line in table.lines() {
        assert_eq!(line.matches('|').count(), 4, "{line}");
    }
}

fn table() -> String {
    let (code, schema, output) = run(command().args(["config", "schema"]));
    assert_eq!(code, 0, "{output}");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut table = "| key | default | |\n|---|---|---|\n".to_owned();
    let mut section = |name: &str, object: &Value| rows(&schema, name, object, &mut table);
    section("instances[].", &schema["$defs"]["Instance"]);
    section("", &schema);
    for (name, definition) in [
        ("api.", "Api"),
        ("sink.kafka.", "Kafka"),
        ("sink.amqp.", "Amqp"),
        ("sink.file.", "File"),
        ("admin.", "Admin"),
        ("log.", "Log"),
    ] {
        section(name, &schema["$defs"][definition]);
    }
    table
}

/// What a reference refers to.
fn resolved<'a>(schema: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value.get("$ref").or_else(|| value["anyOf"][0].get("$ref"));
    reference
        .map_or(value, |path| schema.pointer(path.as_str().unwrap().trim_start_matches('#')).expect("a definition"))
}

fn rows(schema: &Value, section: &str, object: &Value, table: &mut String) {
    let is_required =
        |name: &str| object["required"].as_array().is_some_and(|required| required.contains(&name.into()));
    let mut properties: Vec<_> = object["properties"].as_object().expect(section).iter().collect();
    properties.sort_by_key(|(name, _)| !is_required(name));
    for (name, property) in properties {
        let meant = resolved(schema, property);
        // A section of its own, above or below.
        let is_section = section.is_empty() && (meant.get("properties").is_some() || name == "sink");
        if is_section || name == "instances" {
            continue;
        }
        let default = match &property["default"] {
            _ if is_required(name) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            Value::Object(_) if meant.get("properties").is_some() => String::new(),
            other => format!("`{}`", other.to_string().replace('"', "").replace(',', ", ")),
        };
        let mut output = property["description"].as_str().expect(name).to_owned();
        for (index, choice) in meant["oneOf"].as_array().into_iter().flatten().enumerate() {
            let (value, mark) = (choice["const"].as_str().unwrap(), if index == 0 { "" } else { ";" });
            let (first, rest) = choice["description"].as_str().unwrap().trim_end_matches('.').split_at(1);
            let description = first.to_lowercase() + rest;
            write!(output, "{mark} `{value}`: {description}").unwrap();
        }
        writeln!(table, "| `{section}{name}` | {default} | {} |", output.trim_end_matches('.')).unwrap();
        if meant.get("properties").is_some() {
            rows(schema, &format!("{section}{name}."), meant, table);
        }
    }
}

/// A key of a comment counts: it is one that was commented out, because it excludes another.
#[test]
fn the_example_has_every_key_of_the_table() {
    let example = include_str!("../../deploy/config.example.yaml");
    let table = table();
    let keys = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut count = 0;
    for key in keys {
        let last = key.rsplit('.').next().unwrap();
        let begins = |line: &str| line.trim_start_matches(['#', ' ', '-']).starts_with(&format!("{last}:"));
        let within = ["{", ", ", "or "].map(|before| format!("{before}{last}:"));
        let has = |line: &str| begins(line) || within.iter().any(|text| line.contains(text));
        assert!(example.lines().any(has), "{key} is not in deploy/config.example.yaml");
        count += 1;
    }
    assert!(count > 30, "{count} keys");
}
