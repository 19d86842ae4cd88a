//! Reads lines back, for the memory of the sink and for `verify`.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::input_file;
use crate::notification::{Fingerprint, InstanceId};
use crate::sink::json_line::parse;
use crate::verify::Audit;

/// What was published last for an instance.
#[derive(Clone, Copy)]
pub(super) struct Remembered {
    pub sequence: u64,
    pub fingerprint: Fingerprint,
}

/// What was published last for each instance, from the whole file.
pub(super) fn last_of_each(file: &mut (impl Read + Seek)) -> io::Result<HashMap<InstanceId, Remembered>> {
    file.seek(SeekFrom::Start(0))?;
    let mut remembered = HashMap::new();
    each_line(file, |line| {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let fingerprint = Fingerprint::of(&line.body()?);
        let sequence = line.sequence.parse().ok()?;
        remembered.insert(line.idinstance.parse().ok()?, Remembered { sequence, fingerprint });
        Some(())
    })?;
    Ok(remembered)
}

/// Everything that was published to the file.
pub(super) fn audit(path: &Path, audit: &mut Audit) -> io::Result<()> {
    each_line(input_file::open(path)?, |line| {
        let (published, body) = parse(line)?;
        audit.message(&published, 0, &body);
        Some(())
    })
}

/// Passes every whole line to `take`, which returns `None` for lines that the bridge did not write.
fn each_line(file: impl Read, mut take: impl FnMut(&[u8]) -> Option<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut number) = (Vec::new(), 0_u64);
    while reader.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        // A line without a line feed is being written, or was left incomplete by a crash.
        if line.ends_with(b"\n") && take(&line).is_none() {
            warn!(event = "foreign_line", number, "a line of the sink's file is not the bridge's: it is passed over");
        }
        line.clear();
    }
    Ok(())
}

/// The attributes of a line.
#[derive(Deserialize)]
struct Line<'a> {
    idinstance: String,
    sequence: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

impl Line<'_> {
    fn body(&self) -> Option<Vec<u8>> {
        match (self.data, &self.data_base64) {
            (Some(data), _) => Some(data.get().as_bytes().to_vec()),
            (None, Some(text)) => STANDARD.decode(text).ok(),
            // The body `null`.
            (None, None) => Some(b"null".to_vec()),
        }
    }
}
