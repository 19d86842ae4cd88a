//! Unknown keys of a config: all of them, while the parser ends at the first.

use serde_json::{Map, Value};

use super::locations::{Locations, Node};

/// Where a key is not known, what it is, and which are.
pub(super) struct Unknown<'a> {
    pub line: u64,
    pub column: u64,
    pub key: &'a str,
    pub known: Vec<&'a str>,
}

/// The keys that `schema`, a JSON Schema, does not have, in their order.
pub(super) fn unknown<'a>(found: &'a Locations, schema: &'a Value) -> Vec<Unknown<'a>> {
    let mut unknown = Vec::new();
    if let Some(root) = found.root() {
        collect(root, schema, schema, &mut unknown);
    }
    unknown.sort_by_key(|unknown| (unknown.line, unknown.column));
    unknown
}

fn collect<'a>(node: &'a Node, schema: &'a Value, root: &'a Value, unknown: &mut Vec<Unknown<'a>>) {
    let choices = choices(schema, root);
    let objects: Vec<&Map<String, Value>> =
        choices.iter().filter_map(|choice| choice["properties"].as_object()).collect();
    // A list, or a map with keys of the operator's own.
    let any = choices.iter().find_map(|choice| choice.get("items").or(choice.get("additionalProperties")));
    for (key, part) in node.parts() {
        let of_key = objects.iter().find_map(|object| object.get(key)).or(any.filter(|any| any.is_object()));
        if let Some(schema) = of_key {
            collect(&part.node, schema, root, unknown);
        } else if any == Some(&Value::Bool(false)) {
            let known = objects.iter().flat_map(|object| object.keys()).map(String::as_str).collect();
            unknown.push(Unknown { line: part.key.line(), column: part.key.column(), key, known });
        }
    }
}

/// The schemas of which one holds, without references.
pub(super) fn choices<'a>(schema: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        let referenced = root.pointer(reference.trim_start_matches('#'));
        return referenced.map(|referenced| choices(referenced, root)).unwrap_or_default();
    }
    match schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        Some(several) => several.iter().flat_map(|schema| choices(schema, root)).collect(),
        None => vec![schema],
    }
}
