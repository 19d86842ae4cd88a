//! Mistakes of form after the first: the parser ends at one, so its value is replaced by one that parses.

use serde_json::Value;
use serde_saphyr::Location;

use super::keys::choices;
use super::locations::{Locations, Node};

/// More are not looked for.
pub(super) const MOST: usize = 20;

/// The keys of the value at this place.
pub(super) fn keys_of(locations: &Locations, place: Location) -> Option<Vec<String>> {
    fn search(node: &Node, place: Location, keys: &mut Vec<String>) -> bool {
        node.parts().any(|(key, part)| {
            keys.push(key.to_owned());
            let at = part.node.location();
            let found = (at.line(), at.column()) == (place.line(), place.column()) || search(&part.node, place, keys);
            if !found {
                keys.pop();
            }
            found
        })
    }
    let mut keys = Vec::new();
    search(locations.root()?, place, &mut keys).then_some(keys)
}

/// The text with another value at these keys: the default or, if there is none, a URL. Only a scalar can be replaced.
pub(super) fn replaced(text: &str, locations: &Locations, keys: &[String], schema: &Value) -> Option<String> {
    let span = locations.find(keys).span();
    let begin = usize::try_from(span.byte_offset()?).ok()?;
    let end = begin.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
    let is_scalar = |value: &str| !value.starts_with(['{', '[', '|', '>']) && !value.starts_with("- ");
    text.get(begin..).filter(|value| is_scalar(value))?;
    let value = sound(schema_of(keys, schema)?, schema)?;
    Some([text.get(..begin)?, &value, text.get(end..)?].concat())
}

fn schema_of<'a>(keys: &[String], root: &'a Value) -> Option<&'a Value> {
    keys.iter().try_fold(root, |schema, key| {
        choices(schema, root).into_iter().find_map(|choice| choice["properties"].get(key).or(choice.get("items")))
    })
}

fn sound(schema: &Value, root: &Value) -> Option<String> {
    let choices = choices(schema, root);
    let is_text = |choice: &&Value| choice["type"] == "string" || choice["type"][0] == "string";
    match schema.get("default").filter(|default| !default.is_null()) {
        Some(default) => Some(default.to_string()),
        None => choices.iter().any(is_text).then(|| r#""https://localhost""#.to_owned()),
    }
}
