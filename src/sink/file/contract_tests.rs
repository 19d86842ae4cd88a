//! The contract of sinks, held against files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::Options;
use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::sink::contract_test::{self, Harness, Message};
use crate::sink::dead_letter::Folder;
use crate::sink::driver::Driver;
use crate::sink::json_line::read_messages;

/// A file in a folder that can be moved away.
struct File {
    _all: tempfile::TempDir,
    folder: PathBuf,
    away: PathBuf,
}

#[async_trait]
impl Harness for File {
    async fn start(&self) -> Arc<dyn Sink> {
        Options { path: self.folder.join("a.jsonl") }
            .start(Folder::new(Path::new(""), 1), 1, &Metrics::new("file"))
            .unwrap()
    }

    async fn read(&self) -> Vec<Message> {
        read_messages(&fs::read(self.folder.join("a.jsonl")).unwrap())
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

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let all = tempfile::tempdir().unwrap();
    let (folder, away) = (all.path().join("folder"), all.path().join("away"));
    fs::create_dir(&folder).unwrap();
    contract_test::run(&File { _all: all, folder, away }).await;
}
