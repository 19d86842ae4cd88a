//! From files to a checked config.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, Options};

use super::{Config, Instance, check};
use crate::input_file;
use crate::mistake::{Mistake, Mistakes};

pub(super) fn from_file(path: &Path, variables: HashMap<String, String>) -> Result<Config, Mistakes> {
    let text = input_file::read_config(path).map_err(|error| unreadable(path, &error))?;
    let config = from_text(path, &text, variables)?;
    Ok(Config { file: Some(path.to_owned()), ..config })
}

/// `path` is told where it is wrong.
pub(super) fn from_text(path: &Path, text: &str, variables: HashMap<String, String>) -> Result<Config, Mistakes> {
    let options = Options::default().with_properties(variables);
    let mut config: Config = parse(path, text, &options)?;
    if let Some(folder) = config.instances_dir.clone() {
        config.instances.extend(from_folder(&folder, &options)?);
    }
    check::check(config, Some(path))
}

/// One instance per file, in the order of their names.
fn from_folder(folder: &Path, options: &Options) -> Result<Vec<Instance>, Mistakes> {
    let paths = instance_files(folder).map_err(|error| unreadable(folder, &error))?;
    let instance = |path: PathBuf| {
        let instance: Instance = parse(&path, &text(&path)?, options)?;
        Ok(Instance { file: Some(path), ..instance })
    };
    paths.into_iter().map(instance).collect()
}

/// The files of an `instances_dir`, in the order of their names. Hidden ones are something else: an editor's, or part of
/// how a folder is mounted.
pub(super) fn instance_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let list = |folder: &Path| fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = input_file::beside(folder, list)?;
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let is_yaml = |path: &Path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    paths.retain(|path| is_yaml(path) && !is_hidden(path));
    paths.sort();
    Ok(paths)
}

/// One file of an `instances_dir`.
pub(super) fn instance(path: &Path, variables: HashMap<String, String>) -> Result<Instance, Mistakes> {
    let instance: Instance = parse(path, &text(path)?, &Options::default().with_properties(variables))?;
    check::instance(Instance { file: Some(path.to_owned()), ..instance }, path)
}

fn text(path: &Path) -> Result<String, Mistakes> {
    input_file::read_text(path).map_err(|error| unreadable(path, &error))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str, options: &Options) -> Result<T, Mistakes> {
    serde_saphyr::from_str_with_options(text, options.clone())
        .map_err(|error| Mistakes(vec![Mistake::of_form(path, text, &error)]))
}

fn unreadable(path: &Path, error: &io::Error) -> Mistakes {
    Mistakes(vec![Mistake::at(Some(path), Location::UNKNOWN, format!("cannot be read: {error}"))])
}
