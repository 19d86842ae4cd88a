//! Reads the files of a config.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Config, Instance, check};
use crate::input_file;
use crate::mistake::{Mistake, Mistakes, Source};

pub(super) fn from_file(path: &Path, variables: HashMap<String, String>) -> Result<Config, Mistakes> {
    let text = input_file::read_config(path).map_err(|error| unreadable(path, &error))?;
    let config = from_text(path, &text, variables)?;
    Ok(Config { file: Some(path.to_owned()), ..config })
}

/// `path` is named in mistakes.
pub(super) fn from_text(path: &Path, text: &str, variables: HashMap<String, String>) -> Result<Config, Mistakes> {
    let variables = Rc::new(variables);
    let source = Source::new(path.to_owned(), text, &variables);
    let (config, mut mistakes) = source.parse::<Config>();
    let Some(mut config) = config else { return Err(Mistakes(mistakes)) };
    // With mistakes in the config it may not be the right folder.
    let folder = config.instances_dir.as_deref().filter(|_| mistakes.is_empty());
    let in_folder = folder.map(|folder| from_folder(folder, &variables)).transpose()?.unwrap_or_default();
    match check::check(&config, Some(&source), &in_folder) {
        Ok(doubts) => config.doubts = doubts,
        Err(found) => mistakes.extend(found.0),
    }
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes));
    }
    config.instances.extend(in_folder.into_iter().map(|(instance, _)| instance));
    Ok(config)
}

/// Reads the instances of a folder, by file name.
fn from_folder(folder: &Path, variables: &Rc<HashMap<String, String>>) -> Result<Vec<(Instance, Source)>, Mistakes> {
    let paths = instance_files(folder).map_err(|error| unreadable(folder, &error))?;
    paths.into_iter().map(|path| read_instance(path, variables)).collect()
}

/// The files of an `instances_dir` by name. Hidden files are ignored: they belong to editors or are part of how a folder is
/// mounted.
pub(super) fn instance_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let list = |folder: &Path| fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = input_file::beside(folder, list)?;
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let is_yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    paths.retain(|path| is_yaml(path) && !is_hidden(path));
    paths.sort();
    Ok(paths)
}

/// Reads and checks one file of an `instances_dir`.
pub(super) fn instance(path: &Path, variables: HashMap<String, String>) -> Result<Instance, Mistakes> {
    let (instance, source) = read_instance(path.to_owned(), &Rc::new(variables))?;
    check::instance(&instance, &source)?;
    Ok(instance)
}

fn read_instance(path: PathBuf, variables: &Rc<HashMap<String, String>>) -> Result<(Instance, Source), Mistakes> {
    let text = input_file::read_text(&path).map_err(|error| unreadable(&path, &error))?;
    let source = Source::new(path, &text, variables);
    let (instance, mistakes) = source.parse::<Instance>();
    let instance = instance.filter(|_| mistakes.is_empty()).ok_or(Mistakes(mistakes))?;
    Ok((Instance { file: Some(source.file.clone()), ..instance }, source))
}

fn unreadable(path: &Path, error: &io::Error) -> Mistakes {
    Mistakes(vec![Mistake::at(Some(path), (0, 0), format!("cannot be read: {error}"))])
}
