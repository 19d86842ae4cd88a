//! Collects the mistakes in a config, with their places.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, Options};

use super::locations::Locations;
use super::{Mistake, Mistakes};

/// The text of a file of the config.
pub(crate) struct Source<'a> {
    pub file: PathBuf,
    pub text: String,
    pub options: &'a Options,
}

impl Source<'_> {
    /// Parses the text.
    ///
    /// # Errors
    /// The first syntax error, unknown key or wrong type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Mistakes> {
        serde_saphyr::from_str_with_options(&self.text, self.options.clone())
            .map_err(|error| Mistakes(vec![Mistake::of_form(&self.file, &self.text, &error)]))
    }
}

/// The mistakes found so far.
pub(crate) struct Found<'a> {
    source: Option<&'a Source<'a>>,
    /// Computed for the first mistake.
    locations: Option<Locations>,
    /// The keys of the part that is being checked.
    within: Vec<String>,
    mistakes: Vec<Mistake>,
}

impl<'a> Found<'a> {
    pub(crate) fn new(source: Option<&'a Source<'a>>) -> Self {
        Self { source, locations: None, within: Vec::new(), mistakes: Vec::new() }
    }

    /// Checks the part of the config under these keys.
    pub(crate) fn within(&mut self, keys: &[&str], check: impl FnOnce(&mut Self)) {
        let outside = self.within.len();
        self.within.extend(keys.iter().map(|key| (*key).to_owned()));
        check(self);
        self.within.truncate(outside);
    }

    /// Adds a mistake in the value under these keys, relative to the part being checked. The keys of a list are its indices.
    pub fn add(&mut self, keys: &[&str], text: impl Into<String>) {
        let keys: Vec<String> = self.within.iter().cloned().chain(keys.iter().map(|key| (*key).to_owned())).collect();
        let mistake = match self.source {
            None => Mistake::at(None, Location::UNKNOWN, text.into()),
            Some(Source { file, text: source, options }) => {
                let locations = self.locations.get_or_insert_with(|| Locations::of(source, options));
                Mistake::at(Some(file), locations.find(&keys), text.into())
            }
        };
        self.mistakes.push(mistake);
    }

    pub(crate) fn append(&mut self, mut other: Found<'_>) {
        self.mistakes.append(&mut other.mistakes);
    }

    pub(crate) fn result(self) -> Result<(), Mistakes> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(self.mistakes)) }
    }
}
