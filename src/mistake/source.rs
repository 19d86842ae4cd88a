//! The text of a file of the config.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Location, Options, PropertySyntax, budget, options};

use super::locations::Locations;
use super::variables::ForParser;
use super::{Mistake, keys, repair, unknown};

/// A file of the config: what stands in it, and the variables that it may use.
pub(crate) struct Source {
    pub file: PathBuf,
    rewritten: ForParser,
    variables: Rc<HashMap<String, String>>,
}

impl Source {
    pub(crate) fn new(file: PathBuf, text: &str, variables: &Rc<HashMap<String, String>>) -> Self {
        Self { file, rewritten: ForParser::new(text), variables: Rc::clone(variables) }
    }

    /// Parses the text: the value, and the mistakes of form. With mistakes there may be no value, and a value that is there is
    /// good only for finding more of them, because it has others than the wrong ones.
    pub(crate) fn parse<T: DeserializeOwned + JsonSchema>(&self) -> (Option<T>, Vec<Mistake>) {
        let mut error = match self.parse_text(&self.rewritten.text) {
            Ok(value) => return (Some(value), Vec::new()),
            Err(error) => error,
        };
        let (schema, original) = (schemars::schema_for!(T), self.locations());
        let schema = schema.as_value();
        let mut mistakes = self.mistakes(&error, &original, schema);
        let mut text = self.rewritten.text.clone();
        for _ in 0..repair::MOST {
            let locations = Locations::of(&text, options());
            let keys = error.location().and_then(|place| repair::keys_of(&locations, place));
            let Some(repaired) = keys.and_then(|keys| repair::replaced(&text, &locations, &keys, schema)) else {
                break;
            };
            error = match self.parse_text(&repaired) {
                Ok(value) => return (Some(value), mistakes),
                Err(error) => error,
            };
            let place = error.location().unwrap_or(Location::UNKNOWN);
            let Some(keys) = repair::keys_of(&Locations::of(&repaired, options()), place) else { break };
            // Where it is in the file.
            let at = original.find(&keys);
            mistakes.push(self.mistake(at.line(), at.column(), Mistake::of_form(&repaired, &error)));
            text = repaired;
        }
        (None, mistakes)
    }

    fn parse_text<T: DeserializeOwned>(&self, text: &str) -> Result<T, Error> {
        let mut options = options();
        options.property_map = Some(Rc::clone(&self.variables));
        options.property_syntax = PropertySyntax::DockerCompose;
        serde_saphyr::from_str_with_options(text, options)
    }

    /// All unknown keys, and what the parser ended at.
    fn mistakes(&self, error: &Error, locations: &Locations, schema: &serde_json::Value) -> Vec<Mistake> {
        let keys = keys::unknown(locations, schema);
        let of_key = |key: &keys::Unknown<'_>| self.mistake(key.line, key.column, unknown("key", key.key, &key.known));
        let mut mistakes: Vec<Mistake> = keys.iter().map(of_key).collect();
        let follows = match error.without_snippet() {
            Error::SerdeUnknownField { .. } => true,
            // What was meant by an unknown key is missing.
            Error::SerdeMissingField { field, .. } => {
                keys.iter().any(|key| super::nearest(key.key, &key.known) == Some(field))
            }
            _ => keys
                .iter()
                .any(|key| Some((key.line, key.column)) == error.location().map(|at| (at.line(), at.column()))),
        };
        if mistakes.is_empty() || !follows {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let text = Mistake::of_form(&self.rewritten.text, error);
            mistakes.push(self.mistake(location.line(), location.column(), text));
        }
        mistakes
    }

    /// The places of all values.
    pub(super) fn locations(&self) -> Locations {
        Locations::of(&self.rewritten.text, options())
    }

    /// A mistake at this place, as the parser counts.
    pub(super) fn mistake(&self, line: u64, column: u64, text: String) -> Mistake {
        Mistake::at(Some(&self.file), (line, self.rewritten.column(line, column)), text)
    }
}

/// Any number of instances may be in one file, whose size is limited. What aliases multiply stays limited as well.
fn options() -> Options {
    options! {
        budget: budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_total_property_interpolation_work: usize::MAX,
        },
    }
}
