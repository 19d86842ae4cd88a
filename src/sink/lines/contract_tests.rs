//! The contract of sinks, held against files and standard output.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::{file, into_writer};
use crate::sink::Sink;
use crate::sink::contract_test::{self, Message, Place};

/// Standard output, but for whose it is.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Place for Lines {
    async fn start(&self) -> Arc<dyn Sink> {
        let lines = self.clone();
        Arc::new(into_writer(move || lines.clone()).unwrap())
    }

    async fn read(&self) -> Vec<Message> {
        read(&self.0.lock().unwrap())
    }

    fn remembers(&self) -> bool {
        false
    }

    fn ownership_can_end(&self) -> bool {
        false
    }

    async fn interrupt(&self) {}

    async fn restore(&self) {}
}

/// A file in a folder that can be moved away.
struct File {
    _all: tempfile::TempDir,
    folder: PathBuf,
    away: PathBuf,
}

#[async_trait]
impl Place for File {
    async fn start(&self) -> Arc<dyn Sink> {
        Arc::new(file(self.folder.join("a.jsonl")).unwrap())
    }

    async fn read(&self) -> Vec<Message> {
        read(&fs::read(self.folder.join("a.jsonl")).unwrap())
    }

    fn remembers(&self) -> bool {
        true
    }

    async fn interrupt(&self) {
        fs::rename(&self.folder, &self.away).unwrap();
    }

    async fn restore(&self) {
        fs::rename(&self.away, &self.folder).unwrap();
    }
}

fn read(lines: &[u8]) -> Vec<Message> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let messages = lines.map(|line| {
        let members: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).unwrap();
        let text = |name: &str| serde_json::from_str::<String>(members.get(name)?.get()).ok();
        let body = match members.get("data") {
            Some(data) => data.get().as_bytes().to_vec(),
            None => STANDARD.decode(text("data_base64").unwrap()).unwrap(),
        };
        let attributes: Vec<(&str, String)> = members.keys().filter_map(|name| Some((*name, text(name)?))).collect();
        let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
        Message::new(attributes, body).unwrap()
    });
    messages.collect()
}

#[tokio::test]
async fn standard_output_keeps_the_contract() {
    contract_test::run(&Lines::default()).await;
}

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let all = tempfile::tempdir().unwrap();
    let (folder, away) = (all.path().join("folder"), all.path().join("away"));
    fs::create_dir(&folder).unwrap();
    contract_test::run(&File { _all: all, folder, away }).await;
}
