//! What `src/ARCHITECTURE.md` says is not there is not there.

use std::fs;
use std::path::Path;

/// A word of the source, and the only places for it.
const ONLY: [(&str, &[&str]); 9] = [
    ("hyper_util::client", &["src/green_api/"]),
    ("rustls::", &["src/green_api/"]),
    ("rdkafka::", &["src/sink/kafka/"]),
    ("lapin::", &["src/sink/amqp/"]),
    ("print!", &["src/cli", "src/emulator/command.rs"]),
    ("println!", &["src/cli", "src/emulator/command.rs"]),
    ("process::exit", &[]),
    ("todo!", &[]),
    ("dbg!", &[]),
];

/// The way of a notification is one task of an instance, which shares nothing.
const LINE: [&str; 3] = ["src/bridge.rs", "src/overlap.rs", "src/doubt.rs"];
const NOT_ON_THE_LINE: [&str; 7] = ["Mutex", "RwLock", "static ", "mpsc", "watch::", "broadcast", "spawn"];

/// The files of the source under this folder, and what stands in them.
fn sources(folder: &str) -> Vec<(String, String)> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(project.join(folder)).unwrap();
    let paths = entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap()));
    let of_path = |path: String| {
        if project.join(&path).is_dir() {
            sources(&path)
        } else if path.rsplit('.').next() == Some("rs") {
            let text = fs::read_to_string(project.join(&path)).unwrap();
            vec![(path, text)]
        } else {
            Vec::new()
        }
    };
    paths.flat_map(of_path).collect()
}

#[test]
fn every_word_stands_in_its_own_places() {
    for (path, text) in sources("src") {
        for (word, places) in ONLY {
            let is_here = text.contains(word) && !places.iter().any(|place| path.starts_with(place));
            assert!(!is_here, "{path}: {word} belongs into {places:?} alone");
        }
        if LINE.contains(&path.as_str()) {
            // A lifetime is no state.
            let text = text.replace("'static ", "");
            for word in NOT_ON_THE_LINE {
                assert!(!text.contains(word), "{path}: {word}");
            }
        }
    }
}

#[test]
fn no_file_is_long_or_for_everything() {
    for (path, text) in ["src", "tests/it", "benches", "examples"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        assert!(lines <= 400, "{path} has {lines} lines: make two of it");
        let name = path.rsplit('/').next().unwrap();
        assert!(!["util.rs", "utils.rs", "helpers.rs", "common.rs"].contains(&name), "{path}: name it by its subject");
    }
}
