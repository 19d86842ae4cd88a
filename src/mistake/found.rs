//! Collects the mistakes in a config, with their places.

use super::locations::Locations;
use super::source::Source;
use super::{Mistake, Mistakes};

/// The mistakes found so far.
pub(crate) struct Found<'a> {
    source: Option<&'a Source>,
    /// Computed for the first mistake.
    locations: Option<Locations>,
    /// The keys of the part that is being checked.
    within: Vec<String>,
    mistakes: Vec<Mistake>,
    doubts: Vec<Mistake>,
}

impl<'a> Found<'a> {
    pub(crate) fn new(source: Option<&'a Source>) -> Self {
        Self { source, locations: None, within: Vec::new(), mistakes: Vec::new(), doubts: Vec::new() }
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
        let mistake = self.at(keys, text.into());
        self.mistakes.push(mistake);
    }

    /// As [`add`](Self::add), what is probably a mistake, but works.
    pub(crate) fn doubt(&mut self, keys: &[&str], text: impl Into<String>) {
        let doubt = self.at(keys, text.into());
        self.doubts.push(doubt);
    }

    fn at(&mut self, keys: &[&str], text: String) -> Mistake {
        let keys: Vec<String> = self.within.iter().cloned().chain(keys.iter().map(|key| (*key).to_owned())).collect();
        match self.source {
            None => Mistake::at(None, (0, 0), text),
            Some(source) => {
                let location = self.locations.get_or_insert_with(|| source.locations()).find(&keys);
                source.mistake(location.line(), location.column(), text)
            }
        }
    }

    pub(crate) fn append(&mut self, mut other: Found<'_>) {
        self.mistakes.append(&mut other.mistakes);
        self.doubts.append(&mut other.doubts);
    }

    /// What was doubted.
    pub(crate) fn result(self) -> Result<Vec<Mistake>, Mistakes> {
        if self.mistakes.is_empty() { Ok(self.doubts) } else { Err(Mistakes(self.mistakes)) }
    }
}
