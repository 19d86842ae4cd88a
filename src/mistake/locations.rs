//! The places of keys and values in a YAML text. The config itself has plain values: a place is looked up by keys, and only for
//! a mistake.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Options, Spanned};

/// The places of all values of a text.
#[derive(Debug)]
pub(super) struct Locations(Option<Node>);

/// A value.
#[derive(Debug)]
pub(super) struct Node {
    location: Location,
    /// By key, or by index for a list.
    parts: BTreeMap<String, Part>,
}

/// A value under a key.
#[derive(Debug)]
pub(super) struct Part {
    /// Of a list: where the value is.
    pub key: Location,
    pub node: Node,
}

impl Node {
    pub(super) fn location(&self) -> Location {
        self.location
    }

    /// The values in this one by key, or by index for a list.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&str, &Part)> {
        self.parts.iter().map(|(key, part)| (&**key, part))
    }
}

impl Locations {
    /// Of a text that is no YAML there are none.
    pub(super) fn of(text: &str, options: Options) -> Self {
        Self(serde_saphyr::from_str_with_options(text, options).ok())
    }

    pub(super) fn root(&self) -> Option<&Node> {
        self.0.as_ref()
    }

    /// The place of the value under these keys or, if it is not given, of the nearest enclosing value.
    pub(super) fn find(&self, keys: &[String]) -> Location {
        let (mut node, mut found) = (self.0.as_ref(), Location::UNKNOWN);
        for key in keys {
            node = node.and_then(|node| Some(&node.parts.get(key)?.node));
            found = node.map_or(found, |node| node.location);
        }
        found
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: Parts(parts), referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { location: referenced, parts })
    }
}

struct Parts(BTreeMap<String, Part>);

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartsVisitor)
    }
}

struct PartsVisitor;

/// Visits a scalar, whose value does not matter.
macro_rules! scalar {
    ($($visit:ident: $of:ty),*) => {
        $(fn $visit<E>(self, _: $of) -> Result<Parts, E> {
            Ok(Parts(BTreeMap::new()))
        })*
    };
}

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = Parts;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    scalar!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str, visit_bytes: &[u8]);

    fn visit_unit<E>(self) -> Result<Parts, E> {
        Ok(Parts(BTreeMap::new()))
    }

    fn visit_none<E>(self) -> Result<Parts, E> {
        Ok(Parts(BTreeMap::new()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parts, D::Error> {
        Parts::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Parts, A::Error> {
        let mut parts = BTreeMap::new();
        while let Some(node) = list.next_element::<Node>()? {
            parts.insert(parts.len().to_string(), Part { key: node.location, node });
        }
        Ok(Parts(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let mut parts = BTreeMap::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, _>()? {
            parts.insert(key.value, Part { key: key.referenced, node });
        }
        Ok(Parts(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_where_it_would_be() {
        let text = "a:\n  b: [x, {c: 1}]\n  d: &d {e: null}\nf: *d\n";
        let locations = Locations::of(text, Options::default());
        let find = |keys: &str| {
            let keys: Vec<String> = keys.split_terminator('/').map(str::to_owned).collect();
            let location = locations.find(&keys);
            (location.line(), location.column())
        };
        let found = ["a/b/0", "a/b/1/c", "a/b/2", "a/d/e", "a/x/b", "f", "x", ""].map(find);
        assert_eq!(found, [(2, 7), (2, 14), (2, 6), (3, 13), (2, 3), (4, 4), (0, 0), (0, 0)]);
    }
}
