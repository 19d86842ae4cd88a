use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use green_api_bridge::emulator::EventKind;

use crate::scene::{ID, Scene, numbered};
use crate::support::{Worker, event, eventually, run};

fn bodies_of(scene: &Scene, name: &str) -> Vec<String> {
    let text = fs::read_to_string(scene.path(name)).unwrap();
    let line = |line: &str| serde_json::from_str::<crate::scene::Line>(line).expect(line).body();
    text.lines().map(line).collect()
}

/// The sink's file has what was pushed, in this order and with sequences from 1.
fn assert_holds(scene: &Scene, bodies: &[String]) {
    assert_eq!(scene.bodies(), bodies);
    let sequences: Vec<usize> = scene.lines().iter().map(|line| line.sequence.parse().unwrap()).collect();
    assert_eq!(sequences, (1..=bodies.len()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_file_keeps_its_group_and_the_next_goes_to_a_new_one() {
    let (scene, bodies) = (Scene::new().await, numbered(9));
    let worker = scene.start_into_file();
    scene.push(bodies[..3].iter().map(String::as_str));
    scene.drained();
    fs::rename(scene.path("out.jsonl"), scene.path("moved.jsonl")).unwrap();
    scene.push(bodies[3..].iter().map(String::as_str));
    scene.drained();
    let moved = bodies_of(&scene, "moved.jsonl");
    assert!(moved.len() <= 4, "only the group in which it was noticed: {moved:?}");
    assert_eq!([moved.clone(), scene.bodies()].concat(), bodies);
    assert_holds(&scene, &bodies[moved.len()..]);
    worker.kill();
    let _worker = scene.start_into_file();
    scene.push([r#"{"idMessage":"more"}"#]);
    scene.drained();
    assert_eq!(scene.lines().last().unwrap().sequence, format!("{:020}", bodies.len() - moved.len() + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_into_a_removed_or_replaced_file_is_written_again() {
    let (scene, bodies) = (Scene::new().await, numbered(9));
    let _worker = scene.start_into_file();
    let push = |range: std::ops::Range<usize>| scene.push(bodies[range].iter().map(String::as_str));
    push(0..3);
    scene.drained();
    fs::remove_file(scene.path("out.jsonl")).unwrap();
    push(3..6);
    scene.drained();
    assert_holds(&scene, &bodies[3..6]);
    fs::write(scene.path("other"), "").unwrap();
    fs::rename(scene.path("other"), scene.path("out.jsonl")).unwrap();
    push(6..9);
    scene.drained();
    assert_holds(&scene, &bodies[6..9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_by_others_goes_on() {
    let (scene, bodies) = (Scene::new().await, numbered(6));
    let _worker = scene.start_into_file();
    scene.push(bodies[..3].iter().map(String::as_str));
    scene.drained();
    // As `copytruncate` does.
    fs::File::options().write(true).open(scene.path("out.jsonl")).unwrap().set_len(0).unwrap();
    scene.push(bodies[3..].iter().map(String::as_str));
    scene.drained();
    assert_eq!(scene.bodies(), bodies[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_that_takes_the_path_over_is_its_only_owner() {
    let (scene, bodies) = (Scene::of([ID, "1101000002"]).await, numbered(3));
    let first = scene.start_into_file();
    scene.push(bodies[..1].iter().map(String::as_str));
    scene.drained();
    // Nothing else notices it than the look at an idle file.
    fs::rename(scene.path("out.jsonl"), scene.path("moved.jsonl")).unwrap();
    let mut command = scene.command("file:out.jsonl");
    command.env("GREEN_API_ID_INSTANCE", "1101000002");
    let second = Worker::start(&mut command, &scene.path("second-log"));
    eventually("the second has the file, or waits for it", || {
        scene.path("out.jsonl").exists() || second.log().contains("waiting_for_ownership")
    });
    eventually("one of them waits for the other", || {
        let waits = |worker: &Worker| worker.log().contains("waiting_for_ownership");
        waits(&first) != waits(&second)
    });
    first.kill();
    scene.emulator.push("1101000002", bodies[2].as_str());
    eventually("the second stores", || scene.emulator.queued("1101000002") == 0);
    assert_eq!(scene.bodies(), bodies[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_size_of_files_is_a_condition_until_it_is_raised_and_leaves_no_torn_line() {
    let (scene, bodies) = (Scene::new().await, numbered(100));
    scene.push(bodies.iter().map(String::as_str));
    let bridge = scene.command("file:out.jsonl");
    // The log has a limit, too: what it says fits.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""]).arg(bridge.get_program()).args(bridge.get_args());
    limited.current_dir(&scene.folder).envs(bridge.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let worker = Worker::start(&mut limited, &scene.path("log"));
    worker.wait_for_log(r#""condition":"sink_unavailable""#);
    let unfinished = scene.count(EventKind::Deleted);
    assert!((1..100).contains(&unfinished), "{unfinished}");
    eventually("it is tried again", || worker.log().matches("reopening the sink").count() >= 3);
    let log = worker.log();
    assert!(!log.contains(&event("condition_cleared")), "nothing was stored since: {log}");
    assert_eq!(log.matches(r#""condition":"sink_unavailable""#).count(), 1, "{log}");
    assert_eq!(scene.bodies(), bodies[..unfinished], "whole lines, and none that is not stored");
    worker.kill();
    let _worker = scene.start_into_file();
    scene.drained();
    assert_holds(&scene, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_regular_file_is_refused_without_being_opened() {
    let scene = Scene::new().await;
    assert!(Command::new("mkfifo").arg(scene.path("fifo")).status().unwrap().success());
    for path in ["fifo", "/dev/null", "."] {
        let (code, stdout, stderr) = run(&mut scene.command(&format!("file:{path}")));
        assert_eq!((code, stdout.as_str()), (78, ""), "{path}: {stderr}");
        assert!(stderr.contains("sink.file.path") && stderr.contains("not a regular file"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_made_is_for_its_user_alone_and_not_where_a_link_leads() {
    let scene = Scene::new().await;
    let mode = |name: &str| fs::metadata(scene.path(name)).unwrap().permissions().mode() & 0o777;
    scene.push(["1"]);
    let bridge = scene.start_into_file();
    scene.drained();
    assert_eq!(mode("out.jsonl"), 0o600);
    // As it may be rotated.
    fs::rename(scene.path("out.jsonl"), scene.path("moved.jsonl")).unwrap();
    symlink("elsewhere", scene.path("out.jsonl")).unwrap();
    scene.push(["2"]);
    bridge.wait_for_log("it is a dangling link");
    assert!(!scene.path("elsewhere").exists());
    fs::remove_file(scene.path("out.jsonl")).unwrap();
    scene.drained();
    bridge.kill();
    fs::remove_file(scene.path("out.jsonl")).ok();
    symlink("elsewhere", scene.path("out.jsonl")).unwrap();
    let (code, _, output) = run(&mut scene.command("file:out.jsonl"));
    assert!(code == 78 && output.contains("it is a dangling link"), "{code} {output}");
    assert!(!scene.path("elsewhere").exists());
    // What somebody has made is used as it is, and that is logged.
    fs::write(scene.path("elsewhere"), "").unwrap();
    fs::set_permissions(scene.path("elsewhere"), fs::Permissions::from_mode(0o644)).unwrap();
    let bridge = scene.start_into_file();
    scene.push(["3"]);
    scene.drained();
    assert_eq!((bodies_of(&scene, "elsewhere"), mode("elsewhere")), (vec!["3".to_owned()], 0o644));
    assert_eq!(bridge.log().matches(&event("sink_file_readable_by_others")).count(), 1, "{}", bridge.log());
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_file_between_write_and_answer_is_noticed_before_anything_is_deleted() {
    use nix::sys::signal::Signal;
    type Change = (&'static str, fn(&std::path::Path), std::ops::Range<usize>);
    let changes: [Change; 4] = [
        ("moved", |file| fs::rename(file, file.with_extension("moved")).unwrap(), 3..4),
        ("removed", |file| fs::remove_file(file).unwrap(), 2..4),
        ("replaced", |file| fs::rename(file.with_file_name("empty"), file).unwrap(), 2..4),
        ("cut", |file| fs::File::options().write(true).open(file).unwrap().set_len(0).unwrap(), 2..4),
    ];
    for (what, change, left) in changes {
        let (scene, bodies) = (Scene::new().await, numbered(4));
        fs::write(scene.path("empty"), "").unwrap();
        scene.push(bodies[..3].iter().map(String::as_str));
        let worker = scene.start_with_fault("bridge", "{file: {path: out.jsonl}}", "SIGSTOP@written#3");
        eventually("it stops", || worker.is_stopped());
        change(&scene.path("out.jsonl"));
        worker.signal(Signal::SIGCONT);
        scene.push([bodies[3].as_str()]);
        scene.drained();
        assert_eq!(scene.bodies(), bodies[left], "{what}");
    }
}
