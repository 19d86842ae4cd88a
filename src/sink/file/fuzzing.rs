//! What the sink wrote into a file is read back, whatever stands before it and however its last line was torn.

use std::io::Cursor;

use bytes::Bytes;

use super::read_back::last_of_each;
use super::session::end_of_last_line;
use crate::notification::{Answer, InstanceId, Notification};
use crate::sink::cloud_event::Position;
use crate::sink::json_line::{parse, write_line};
use crate::sink::one_stream::malformed;
use crate::verify::Audit;

/// `before` stood in the file, in lines that may be anybody's; of what the sink was going to write behind `envelopes`
/// stands `torn`.
pub(crate) fn assert_reads_its_own(instance: InstanceId, before: &[u8], envelopes: &[&[u8]], torn: &[u8]) {
    let read = |envelope: &&[u8]| match Answer::read(instance, &Bytes::copy_from_slice(envelope)) {
        Answer::Head(notification) | Answer::NoBody(notification) => Some(notification),
        Answer::Empty | Answer::Unreadable => None,
    };
    let notifications: Vec<Notification> = envelopes.iter().filter_map(read).collect();
    let mut file = before.to_vec();
    if !file.is_empty() {
        file.push(b'\n');
    }
    let mut audit = Audit::default();
    for (sequence, notification) in (1..).zip(&notifications) {
        let mut line = Vec::new();
        let dead_letter = malformed(notification, &"a.jsonl");
        let position = Position { sequence, dead_letter, ..Position::default() };
        write_line(&mut line, notification, &position).expect("it can be written");
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "one line");
        let (published, body) = parse(&line).expect("it is read back");
        assert_eq!((published.instance, body.as_slice()), (instance, &notification.body()[..]));
        audit.message(&published, 0, &body);
        file.append(&mut line);
    }
    let whole = file.len();
    file.extend(torn.iter().filter(|byte| **byte != b'\n'));
    let mut file = Cursor::new(file);
    assert_eq!(end_of_last_line(&mut file).expect("in memory"), whole as u64);
    let remembered = last_of_each(&mut file).expect("in memory");
    if let Some(last) = notifications.last() {
        let read = &remembered[&instance];
        assert_eq!((read.sequence, read.fingerprint), (notifications.len() as u64, last.fingerprint()));
        let report = audit.report(true);
        assert!(report.instances.iter().all(|found| found.lost == 0 && found.reordered == 0), "{report:?}");
    }
}
