//! Publishes dead letters again, to where they would have gone. What differs between brokers is a function that publishes one
//! letter durably; which letters are meant, and what is reported of each, is here.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "files and standard output have nothing to redrive")
)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Reason;
use super::dead_letter::{self, REDRIVING, sync_entry};
use super::json_line;
use crate::error::SetupError;
use crate::fault;
use crate::input_file;
use crate::notification::InstanceId;

/// Attributes that only dead letters have.
const OF_DEAD_LETTERS: [&str; 2] = ["deadletterreason", "originaldestination"];

/// Where dead letters are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// Kafka's `dead_letter_topic`.
    Kafka,
    /// RabbitMQ's `dead_letter_queue`.
    Amqp,
    /// What consumers rejected: RabbitMQ's queue `{queue}.rejected`.
    Rejected,
    /// The files in `dead_letter_dir`.
    Dir,
}

/// Which dead letters are meant.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Where they are taken from.
    pub from: From,
    /// Only those of this instance.
    pub instance: Option<InstanceId>,
    /// Only those with this reason. Without it, all but `malformed` and `too_large`, which would be refused again.
    pub reason: Option<Reason>,
    /// Report what would be done, and publish nothing.
    pub dry_run: bool,
}

impl Selection {
    fn includes(&self, letter: &Letter) -> bool {
        let reason = letter.get("deadletterreason");
        let is_wanted = match self.reason {
            Some(wanted) => reason == Some(wanted.to_string().as_str()),
            None => ![Reason::Malformed, Reason::TooLarge].iter().any(|hopeless| reason == Some(&hopeless.to_string())),
        };
        is_wanted && self.instance.is_none_or(|wanted| letter.get("idinstance") == Some(&wanted.to_string()))
    }
}

/// A dead letter.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    attributes: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Letter {
    /// From the attributes without the prefix that a transport puts before them. `None` if it is not the bridge's.
    pub fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>, body: Vec<u8>) -> Option<Self> {
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let letter = Self { attributes, body };
        ["id", "idinstance", "sequence"].iter().all(|name| letter.get(name).is_some()).then_some(letter)
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The topic, or exchange and routing key, for which it was meant.
    pub fn destination(&self) -> &str {
        self.get("originaldestination").unwrap_or_default()
    }

    /// The media type of its body.
    pub fn content_type(&self) -> &'static str {
        let is_malformed = self.get("deadletterreason") == Some(&Reason::Malformed.to_string());
        if is_malformed { "application/octet-stream" } else { "application/json" }
    }

    /// The attributes with which it is published again; `marked` if another copy may exist.
    pub fn redriven(&self, marked: bool) -> impl Iterator<Item = (&str, &str)> {
        let kept = self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let is_kept = move |name: &str| !OF_DEAD_LETTERS.contains(&name) && name != "redriven";
        let mark = (marked && self.get("possibleduplicate").is_none()).then_some(("possibleduplicate", "true"));
        kept.filter(move |(name, _)| is_kept(name)).chain(mark).chain([("redriven", "true")])
    }
}

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is durably stored at its destination.
    Redriven,
    /// An earlier run did that.
    AlreadyRedriven,
    /// It stays where it was, for this reason, and was certainly not published.
    Refused(String),
    /// The same, but one of several queues may have it.
    InDoubt(String),
}

/// The letters of a run, and what became of them.
#[derive(Debug)]
pub struct Redrive {
    selection: Selection,
    report: fn(&str),
    /// Published now; with `dry_run`, would be published.
    pub redriven: u64,
    /// Published by an earlier run.
    pub already: u64,
    /// Not selected, or not a dead letter of the bridge.
    pub passed_over: u64,
    /// Still where they were, because they could not be published.
    pub refused: u64,
}

impl Redrive {
    /// Begins a run, which passes a line about each letter to `report`.
    #[must_use]
    pub fn new(selection: Selection, report: fn(&str)) -> Self {
        Self { selection, report, redriven: 0, already: 0, passed_over: 0, refused: 0 }
    }

    /// What is meant.
    pub(crate) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Publishes one letter by `publish`, which in a dry run only says what would become of it, unless it is not selected. Whether
    /// it can be removed from where it was.
    pub(crate) fn letter(
        &mut self,
        letter: Option<Letter>,
        publish: impl FnOnce(&Letter) -> Result<Fate, SetupError>,
    ) -> Result<bool, SetupError> {
        let Some(letter) = letter.filter(|letter| self.selection.includes(letter)) else {
            self.passed_over += 1;
            return Ok(false);
        };
        let fate = publish(&letter)?;
        fault::reached("redriven");
        let shown = |name| letter.get(name).unwrap_or("-").escape_debug();
        let (counter, outcome) = match &fate {
            Fate::Redriven if self.selection.dry_run => (&mut self.redriven, "would be redriven"),
            Fate::Redriven => (&mut self.redriven, "redriven"),
            Fate::AlreadyRedriven => (&mut self.already, "redriven earlier"),
            Fate::Refused(why) | Fate::InDoubt(why) => (&mut self.refused, why.as_str()),
        };
        *counter += 1;
        let reason = letter.get("deadletterreason").unwrap_or("rejected").escape_debug();
        let line = format!("{} {} {} {reason}: {outcome}", shown("idinstance"), shown("sequence"), shown("id"));
        (self.report)(&line);
        Ok(!self.selection.dry_run && matches!(fate, Fate::Redriven | Fate::AlreadyRedriven))
    }

    /// Publishes the letters in the folder, and removes each that is published. `publish` is given whether an earlier run may have
    /// published it already.
    pub(crate) fn folder(
        &mut self,
        folder: &Path,
        mut publish: impl FnMut(&Letter, bool) -> Result<Fate, SetupError>,
    ) -> Result<(), SetupError> {
        let failed = |path: &Path, error| SetupError::new(format!("dead_letter_dir {}", path.display()), error);
        let mut paths = Vec::new();
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| failed(folder, error))?,
        };
        for entry in entries {
            paths.push(entry.map_err(|error| failed(folder, error))?.path());
        }
        // What an earlier run left comes first.
        paths.sort_by_key(|path| (!is_redriving(path), path.clone()));
        let dry_run = self.selection.dry_run;
        for path in paths {
            let was_begun = is_redriving(&path);
            if !dead_letter::is_letter(&path) {
                continue;
            }
            let letter = match read(&path) {
                Ok(letter) => letter,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.refused += 1;
                    (self.report)(&format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let begun = path.with_extension(REDRIVING);
            let publish = |letter: &Letter| {
                if dry_run {
                    return publish(letter, was_begun);
                }
                if !was_begun {
                    rename(&path, &begun).map_err(|error| failed(&path, error))?;
                }
                fault::reached("redriving");
                let fate = publish(letter, was_begun)?;
                if matches!(fate, Fate::Refused(_)) && !was_begun {
                    rename(&begun, &path).map_err(|error| failed(&path, error))?;
                }
                Ok(fate)
            };
            if self.letter(letter, publish)? {
                fs::remove_file(&begun).and_then(|()| sync_entry(&begun)).map_err(|error| failed(&begun, error))?;
            }
        }
        Ok(())
    }
}

fn is_redriving(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == REDRIVING)
}

fn rename(from: &Path, to: &PathBuf) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_entry(to)
}

/// `None` if it is not a dead letter of the bridge.
fn read(path: &Path) -> io::Result<Option<Letter>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = input_file::limited(input_file::open(path)?, dead_letter::LARGEST)?;
    Ok(json_line::attributes_and_body(&text).and_then(|(attributes, body)| {
        Letter::new(attributes.iter().map(|(name, value)| (*name, value.as_str())), body)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTRIBUTES: [(&str, &str); 6] = [
        ("id", "2664eae1-4f02-5039-b487-363fc5e524e5"),
        ("idinstance", "1101000001"),
        ("sequence", "00000000000000000007"),
        ("deadletterreason", "refused"),
        ("originaldestination", "wa.incomingCall"),
        ("redriven", "true"),
    ];

    fn with_reason(reason: &'static str) -> Letter {
        let attributes =
            ATTRIBUTES.map(|(name, value)| (name, if name == "deadletterreason" { reason } else { value }));
        Letter::new(attributes, b"{}".into()).unwrap()
    }

    fn selection(instance: Option<&str>, reason: Option<Reason>) -> Selection {
        let instance = instance.map(|id| id.parse().unwrap());
        Selection { from: From::Dir, instance, reason, dry_run: false }
    }

    #[test]
    fn what_would_be_refused_again_has_to_be_asked_for() {
        for (reason, by_default) in
            [("refused", true), ("unroutable", true), ("malformed", false), ("too_large", false)]
        {
            assert_eq!(selection(None, None).includes(&with_reason(reason)), by_default, "{reason}");
            assert_eq!(selection(None, Some(Reason::TooLarge)).includes(&with_reason(reason)), reason == "too_large");
        }
        assert!(selection(Some("1101000001"), None).includes(&with_reason("refused")));
        assert!(!selection(Some("1101000002"), None).includes(&with_reason("refused")));
    }

    #[test]
    fn its_attributes_are_those_of_the_notification_and_one_more() {
        let letter = with_reason("refused");
        let redriven = |marked| letter.redriven(marked).skip(3).collect::<Vec<_>>();
        assert_eq!(letter.redriven(false).take(3).collect::<Vec<_>>(), ATTRIBUTES[..3]);
        assert_eq!(redriven(false), [("redriven", "true")]);
        assert_eq!(redriven(true), [("possibleduplicate", "true"), ("redriven", "true")]);
        assert!(Letter::new(ATTRIBUTES[1..].iter().copied(), Vec::new()).is_none(), "without an id");
    }

    #[test]
    fn a_letter_stays_in_the_folder_until_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let members: Vec<String> = ATTRIBUTES.iter().map(|(name, value)| format!("{name:?}:{value:?}")).collect();
        let text = format!("{{{},\"data\":{{}}}}", members.join(","));
        let path = folder.path().join("a.json");
        fs::write(&path, &text).unwrap();
        fs::write(folder.path().join("foreign.json"), "{}").unwrap();
        // More than is ever written: it cannot be read.
        fs::File::create(folder.path().join("huge.json")).unwrap().set_len(dead_letter::LARGEST + 1).unwrap();
        let run = |selection: Selection, fate: Option<Fate>| {
            let (mut redrive, mut marks) = (Redrive::new(selection, |_| ()), Vec::new());
            let outcome = redrive.folder(folder.path(), |_, marked| {
                marks.push(marked);
                fate.clone().ok_or_else(|| "the broker is gone".into())
            });
            (outcome.is_ok(), redrive.redriven, redrive.refused, marks)
        };
        let all = selection(None, None);
        assert_eq!(run(selection(Some("7"), None), None), (true, 0, 1, vec![]), "not selected");
        assert_eq!(run(Selection { dry_run: true, ..all }, Some(Fate::Redriven)), (true, 1, 1, vec![false]));
        assert!(path.exists());
        assert_eq!(run(all, Some(Fate::Refused("no".into()))), (true, 0, 2, vec![false]));
        assert!(path.exists());
        assert_eq!(run(all, None), (false, 0, 0, vec![false]), "its outcome is unknown");
        assert_eq!(run(all, Some(Fate::Redriven)), (true, 1, 1, vec![true]), "another copy may exist");
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["foreign.json", "huge.json"]);
    }
}
