//! The admin port's page, used in a real browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use green_api_bridge::emulator::{Fault, Method};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::admin::{free_address, readiness, start, text};
use crate::kafka_topics::Topics;
use crate::scene::{Scene, answer, numbered, times};
use crate::support::{Worker, event, eventually, foreign_client};

/// Where the pictures are kept: beside what cargo builds.
fn screenshots(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots").join(name);
    fs::create_dir_all(&folder).unwrap();
    println!("screenshots: {}", folder.display());
    folder
}

/// All that is on the page, shown or not.
pub fn everything_on_it(address: &str) -> String {
    look(&[address])["text"].as_str().unwrap().to_owned()
}

/// The page used, and its pictures kept.
pub fn browse(address: &str, name: &str, search: &str) -> Value {
    let folder = screenshots(name);
    let seen = look(&[address, folder.to_str().unwrap(), search]);
    println!("{name}: drawn after {} ms, busy for at most {} ms", seen["drawn_ms"], seen["busy_ms"]);
    seen
}

/// What the browser saw, and that it had nothing to complain about and asked nobody else.
fn look(arguments: &[&str]) -> Value {
    let (address, seen) = (arguments[0], foreign_client("browse_page.js", arguments).remove(0));
    assert_eq!(seen["complaints"].as_array().unwrap().len(), 0, "{}", seen["complaints"]);
    for request in seen["requests"].as_array().unwrap() {
        assert!(request.as_str().unwrap().starts_with(&format!("http://{address}/")), "{request}");
    }
    seen
}

const INTO_FILE: &str = "{file: {path: out.jsonl}}";

/// The cells of one column, from above.
fn column<'a>(seen: &'a Value, rows: &str, number: usize) -> Vec<&'a str> {
    seen[rows].as_array().expect(rows).iter().map(|row| row[number].as_str().unwrap()).collect()
}

/// The columns' places.
const ID_COLUMN: usize = 0;
const CONDITIONS: usize = 1;
const PUBLISHED: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn of_five_thousand_instances_the_page_finds_and_sorts_each() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // For the emulator's end of each connection.
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (scene, address) = (Scene::fleet(5_000, &[]).await, free_address());
    let refused = &scene.instances[4_000..4_030];
    for id in refused {
        scene.emulator.set_token(id, "another");
    }
    let diverted = &scene.instances[2_500];
    let webhook = answer(400, r#"{"message":"webhook url is set"}"#);
    scene.emulator.fault(diverted, times(10_000, Fault::before(webhook).on(Method::ReceiveNotification)));
    let (bodies, busy) = (numbered(9), &scene.instances[1_000..1_009]);
    for (count, id) in (1..=9).zip(busy) {
        for body in &bodies[..count] {
            scene.emulator.push(id, body.as_str());
        }
    }
    let mut command = scene.command_with("bridge", INTO_FILE);
    // Not a line per poll of each of thousands.
    command.env("BRIDGE_ADMIN_LISTEN", &address).env("RUST_LOG", "info");
    let _bridge = Worker::start(&mut command, &scene.path("bridge.log"));
    scene.drained();
    readiness(&address, 200).await;
    let is_troubled = |instance: &&Value| !instance["conditions"].as_array().unwrap().is_empty();
    let mut troubled = 0;
    while troubled < 31 {
        let status: Value = serde_json::from_str(&text(&address, "/status").await).unwrap();
        troubled = status["instances"].as_array().unwrap().iter().filter(is_troubled).count();
    }

    let seen = browse(&address, "5000-instances", "1101004017");
    // A hang; how fast it was is printed.
    assert!(seen["drawn_ms"].as_f64().unwrap() < 60_000.0, "{}", seen["drawn_ms"]);
    let troubled: Vec<&str> = [diverted].into_iter().chain(refused).map(String::as_str).collect();
    assert_eq!(column(&seen, "first", ID_COLUMN)[..31], troubled, "what needs somebody comes first");
    assert_eq!(column(&seen, "first", CONDITIONS)[30..32], ["token_refused", "none"]);
    assert_eq!(column(&seen, "problems", ID_COLUMN), troubled);
    assert_eq!(column(&seen, "of_a_condition", ID_COLUMN), [diverted]);
    for rows in ["found", "found_after_refresh"] {
        assert_eq!(column(&seen, rows, ID_COLUMN), ["1101004017"], "{rows}");
    }
    assert_eq!(column(&seen, "by_instance", ID_COLUMN)[..2], ["1101000001", "1101000002"]);
    assert_eq!(column(&seen, "by_instance_again", ID_COLUMN)[..2], ["1101005000", "1101004999"]);
    assert_eq!(column(&seen, "by_published", ID_COLUMN)[..2], [busy[8].as_str(), &busy[7]]);
    assert_eq!(column(&seen, "by_published", PUBLISHED)[..10], ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]);
    assert_eq!(column(&seen, "by_published_again", PUBLISHED)[0], "0");
    let shown = seen["text"].as_str().unwrap();
    for expected in
        ["ready", "exactly once", "file, connected", "the first 200 of 5000", "token_refused (30): the token was"]
    {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_one_instance_shows_its_sink_and_what_is_wrong_with_it() {
    let (scene, address) = (Scene::fleet(1, &numbered(3)).await, free_address());
    let _bridge = start(&scene, INTO_FILE, &address);
    scene.drained();
    readiness(&address, 200).await;
    let seen = browse(&address, "1-instance", "nothing of the kind");
    assert_eq!(column(&seen, "first", PUBLISHED), ["3"]);
    assert_eq!(column(&seen, "first", CONDITIONS), ["none"]);
    assert!(column(&seen, "problems", ID_COLUMN).is_empty() && column(&seen, "found", ID_COLUMN).is_empty());
    let dark_and_light = seen["backgrounds"].as_array().unwrap();
    assert_ne!(dark_and_light[0], dark_and_light[1]);

    // A sink that is not there.
    let address = free_address();
    let (other, waiting) = (Scene::fleet(1, &numbered(1)).await, "{file: {path: later/out.jsonl}}");
    let waiting = start(&other, waiting, &address);
    waiting.wait_for_log("sink_unavailable");
    let seen = browse(&address, "no-sink", "");
    let shown = seen["text"].as_str().unwrap();
    for expected in ["not ready", "the sink is not connected", "file, not connected", "sink_unavailable (sink): "] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
}

/// `BRIDGE_TEST_WRITE=1` writes the picture that the README shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_picture_in_the_readme_is_of_this_page() {
    let ids = [
        "1101264817",
        "1101318640",
        "1101402953",
        "1101577126",
        "1103089344",
        "1103615502",
        "7103820461",
        "7105164298",
    ];
    let mut scene = Scene::of(ids).await;
    scene.instances = ids.map(str::to_owned).into();
    let (topics, address) = (Topics::new(), free_address());
    let refused = &scene.instances[3];
    scene.emulator.set_token(refused, "another");
    let sink = format!("{}\nshards: 12", topics.sink(""));
    let first = start(&scene, &sink, &address);
    let second = scene.start_with("second", &sink);
    eventually("the token is refused", || {
        [&first, &second].iter().any(|bridge| bridge.log().contains(&event("condition_entered")))
    });
    while text(&address, "/status").await.matches(r#""elsewhere""#).count() != 6 {}
    let seen = std::thread::scope(|threads| {
        let busy: Vec<&String> = scene.instances.iter().filter(|id| *id != refused).collect();
        // Disconnected when this ends, however it ends.
        let (_browsing, ended) = channel::<()>();
        let scene = &scene;
        threads.spawn(move || {
            for number in 0_usize.. {
                for (id, every) in busy.iter().zip(1..) {
                    if number.is_multiple_of(every) {
                        scene.emulator.push(id, format!(r#"{{"typeWebhook":"incomingCall","n":{number}}}"#));
                    }
                }
                if ended.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
        });
        browse(&address, "readme", "")
    });
    let shown = seen["text"].as_str().unwrap();
    for expected in ["6 of 12", "exactly once"] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs/page.png");
    if std::env::var_os("BRIDGE_TEST_WRITE").is_some() {
        fs::copy(screenshots("readme").join("whole.png"), &picture).unwrap();
    }
    assert!(fs::read(picture).unwrap().starts_with(b"\x89PNG"));
}
