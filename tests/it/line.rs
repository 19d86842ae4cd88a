use std::fs;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::{self, EventKind, Fault, FaultKind, Method};
use nix::sys::signal::Signal;

use crate::scene::{ID, Line, Scene, TOKEN, answer, numbered, times};
use crate::support::{ENDS_WITHIN, Worker, command, event, eventually, run};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_body_arrives_once_in_order_and_is_deleted_after_it_is_stored() {
    let scene = Scene::new().await;
    scene.push(emulator::notifications());
    // The first delete hangs: what it is about must be stored by then.
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    let _worker = scene.start_into_file();
    eventually("a delete arrives", || scene.count(EventKind::Faulted) == 1);
    assert_eq!(scene.bodies(), emulator::notifications().take(1).collect::<Vec<_>>());
    assert_eq!(scene.count(EventKind::Deleted), 0);
    scene.drained();
    assert_eq!(scene.bodies(), emulator::notifications().collect::<Vec<_>>());
    let sequences: Vec<u64> = scene.lines().iter().map(|line| line.sequence.parse().unwrap()).collect();
    assert_eq!(sequences, (1..=96).collect::<Vec<_>>());
    assert!(scene.lines().iter().all(|line| line.sequence.len() == 20 && line.possibleduplicate.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bodies_pass_byte_for_byte() {
    let scene = Scene::new().await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let large = format!(r#"{{"textMessage":"{}"}}"#, "x".repeat(3 << 20));
    let odd = [
        "{}",
        "null",
        "{\"a\":1,\"a\":2}",
        "[123456789012345678901234567890, 1.10]",
        r#"{"\ud800":"\udfff"}"#,
        &deep,
        &large,
    ];
    scene.push(odd);
    scene.push(["{\r\n \"typeWebhook\" : \"x\"\n}"]);
    let _worker = scene.start_into_file();
    scene.drained();
    let lines = scene.lines();
    // A literal `null` reads back as no data at all.
    let bodies: Vec<&str> =
        lines[..7].iter().map(|line| line.data.as_ref().map_or("null", |data| data.get())).collect();
    assert_eq!(bodies, odd);
    let text = fs::read_to_string(scene.path("out.jsonl")).unwrap();
    assert!(text.lines().nth(1).unwrap().ends_with(r#","data":null}"#));
    assert_eq!(lines[7].data_base64.as_deref(), Some("ew0KICJ0eXBlV2ViaG9vayIgOiAieCIKfQ=="));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_fifty_times_nothing_is_lost_doubled_or_reordered() {
    const COUNT: usize = 2_000;
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let scene = Scene::new().await;
    let bodies = numbered(COUNT);
    scene.push(bodies.iter().map(String::as_str));
    let mut random = seed;
    for kill in 1..=50 {
        let worker = scene.start_into_file();
        // At a random moment of its work: after so many more deletes, and a little.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let until = (COUNT - scene.emulator.queued(ID)) + usize::try_from(random >> 59).unwrap();
        eventually("it works", || COUNT - scene.emulator.queued(ID) >= until.min(kill * COUNT / 51));
        std::thread::sleep(Duration::from_micros((random >> 40) % 3_000));
        worker.kill();
    }
    let _worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), bodies);
    println!("redelivered {} times", scene.count(EventKind::Received) - COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_line_is_cut_and_its_notification_stored_again() {
    let scene = Scene::new().await;
    let bodies = numbered(3);
    scene.push([bodies[0].as_str()]);
    let worker = scene.start_into_file();
    scene.drained();
    worker.kill();
    let mut text = fs::read_to_string(scene.path("out.jsonl")).unwrap();
    text.push_str(r#"{"specversion":"1.0","idinstance":"1101000001","sequence":"00000000000000000002","da"#);
    fs::write(scene.path("out.jsonl"), text).unwrap();
    scene.push(bodies[1..].iter().map(String::as_str));
    let worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), bodies);
    assert!(worker.log().contains(&event("torn_line_removed")), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_answer_to_a_delete_nothing_is_doubled_or_lost() {
    // Each fault strikes the second delete; the third notification has the bytes of the second.
    for (fault, lost) in [
        (Fault::before(FaultKind::Reset), 0),
        (Fault::before(answer(500, "")), 0),
        (Fault::before(answer(200, r#"{"result":false}"#)), 0),
        // Deleted without an answer: then the equal one counts as its redelivery, as documented.
        (Fault::after(FaultKind::Reset), 1),
    ] {
        let scene = Scene::new().await;
        let worker = scene.start_into_file();
        scene.push([r#"{"n":1}"#]);
        scene.drained();
        scene.fault(fault.on(Method::DeleteNotification));
        scene.push([r#"{"n":2}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
        scene.drained();
        let mut wanted = vec![r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":2}"#, r#"{"n":3}"#];
        wanted.drain(..lost).for_each(drop);
        let stored = scene.bodies();
        assert_eq!(stored.len(), 4 - lost, "{stored:?}");
        assert_eq!(stored.last().map(String::as_str), Some(r#"{"n":3}"#));
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_notifications_are_both_stored_when_no_delete_was_in_doubt() {
    let scene = Scene::new().await;
    scene.push(["{}", "{}", "{}"]);
    let _worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), ["{}", "{}", "{}"]);
    assert!(scene.lines().windows(2).all(|pair| pair[0].id == pair[1].id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_reported_once_and_the_bridge_goes_on_when_the_file_is_corrected() {
    let scene = Scene::new().await;
    scene.push(["{}"]);
    fs::write(scene.path("token"), "wr0ng-canary\n").unwrap();
    let mut command = scene.command("file:out.jsonl");
    command.env_remove("GREEN_API_TOKEN").env("GREEN_API_TOKEN_FILE", scene.path("token")).env("RUST_LOG", "trace");
    let worker = Worker::start(&mut command, &scene.path("log"));
    worker.wait_for_log("token_refused");
    fs::write(scene.path("token"), format!("{TOKEN}\n")).unwrap();
    scene.drained();
    // Whoever comes first to the corrected file: the bridge itself, or the watch, which starts another for its instance.
    let is_corrected =
        |log: &str| log.contains(&event("condition_cleared")) || log.contains(&event("instance_restarted"));
    eventually("the right token is used", || is_corrected(&worker.log()));
    let log = worker.log();
    let entered = log.lines().filter(|line| line.contains(r#""condition":"token_refused""#) && line.contains("WARN"));
    assert_eq!(entered.count(), 1, "{log}");
    assert!(log.contains(r#""instance":"1101000001""#) && log.contains("api_token_file"), "{log}");
    for canary in ["wr0ng-canary", TOKEN] {
        assert!(!log.contains(canary), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_makes_a_hot_loop() {
    let seconds = 4;
    let answers = [
        answer(401, ""),
        answer(200, "null"),
        answer(200, ""),
        answer(200, "<html>"),
        answer(200, r#"{"receiptId":1}"#),
        answer(408, ""),
        answer(429, ""),
        answer(500, ""),
        answer(302, ""),
        FaultKind::Reset,
    ];
    let mut running = Vec::new();
    for kind in answers {
        let scene = Scene::new().await;
        scene.fault(times(1_000, Fault::before(kind.clone()).on(Method::ReceiveNotification)));
        let worker = scene.start_into_file();
        running.push((kind, scene, worker));
    }
    // And one whose deletes alone are answered badly.
    let scene = Scene::new().await;
    scene.push(["{}"]);
    scene.fault(times(1_000, Fault::before(answer(500, "")).on(Method::DeleteNotification)));
    let worker = scene.start_into_file();
    running.push((answer(500, "delete"), scene, worker));
    for (kind, scene, _) in &running {
        eventually(&format!("{kind:?} is met"), || scene.count(EventKind::Faulted) > 0);
    }
    let requests = |scene: &Scene| scene.journal().iter().filter(|event| event.event != EventKind::Pushed).count();
    let before: Vec<(usize, Instant)> = running.iter().map(|(_, scene, _)| (requests(scene), Instant::now())).collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    for ((kind, scene, worker), (before, begun)) in running.iter().zip(before) {
        let (requests, took) = (requests(scene) - before, begun.elapsed());
        // Two requests a second are allowed. A busy machine sleeps for longer than it was asked to.
        assert!(requests as u64 <= 2 * (took.as_secs() + 1), "{kind:?}: {requests} requests in {took:?}");
        assert!(worker.log().lines().count() < 8, "{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_or_personal_is_logged_at_any_level() {
    let scene = Scene::new().await;
    let personal = r#"{"typeWebhook":"incomingMessageReceived","senderData":{"chatId":"79991112233@c.us"},"text":"m3ssage-canary"}"#;
    scene.push([personal]);
    let echo =
        format!(r#"{{"statusCode":400,"path":"/waInstance{ID}/receiveNotification/{TOKEN}","message":"webhook url"}}"#);
    scene.fault(Fault::before(answer(400, &echo)).on(Method::ReceiveNotification));
    scene.fault(Fault::before(FaultKind::Reset).on(Method::ReceiveNotification));
    scene.fault(Fault::before(answer(200, personal)).on(Method::DeleteNotification));
    let mut command = scene.command("file:out.jsonl");
    let worker =
        Worker::start(command.env("RUST_LOG", "trace,hyper=trace,reqwest=trace,hyper_util=trace"), &scene.path("log"));
    worker.wait_for_log("webhook_url_set");
    scene.drained();
    let log = worker.log();
    for canary in [TOKEN, "79991112233", "m3ssage-canary"] {
        assert!(!log.contains(canary), "{canary}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn started_by_nohup_it_outlives_its_terminal() {
    let scene = Scene::new().await;
    let bridge = scene.command("file:out.jsonl");
    let mut command = std::process::Command::new("nohup");
    command.arg(bridge.get_program()).args(bridge.get_args()).current_dir(&scene.folder);
    command.envs(bridge.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let worker = Worker::start(&mut command, &scene.path("log"));
    scene.push(["1"]);
    scene.drained();
    worker.signal(Signal::SIGHUP);
    scene.push(["2"]);
    scene.drained();
    assert!(worker.stop(Signal::SIGTERM).0.success());
    assert_eq!(scene.bodies(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_0_at_once_and_nothing_half_done() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scene = Scene::new().await;
        let bodies = numbered(500);
        scene.push(bodies.iter().map(String::as_str));
        scene.emulator.set_delay(ID, Duration::from_millis(4));
        let worker = scene.start_into_file();
        eventually("it works", || scene.count(EventKind::Deleted) > 20);
        let (status, took) = worker.stop(signal);
        assert_eq!(status.code(), Some(0));
        assert!(took < ENDS_WITHIN, "{took:?}");
        assert_eq!(scene.lines().len(), scene.count(EventKind::Deleted), "what is stored is deleted");
        // While it waits for a notification it ends as quickly.
        scene.emulator.set_delay(ID, Duration::ZERO);
        let worker = scene.start_into_file();
        scene.drained();
        let (status, took) = worker.stop(signal);
        assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
        assert_eq!(scene.bodies(), bodies);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_waits_for_the_file() {
    let scene = Scene::new().await;
    let first = scene.start_into_file();
    scene.push(["1"]);
    scene.drained();
    let second = Worker::start(&mut scene.command("file:out.jsonl"), &scene.path("second-log"));
    second.wait_for_log("waiting_for_ownership");
    first.kill();
    second.wait_for_log(&event("condition_cleared"));
    scene.push(["2"]);
    scene.drained();
    assert_eq!(scene.bodies(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_marks_the_first_of_each_start_and_holds_data_only() {
    let scene = Scene::new().await;
    scene.push(["1", "2"]);
    let output = fs::File::create(scene.path("out.jsonl")).unwrap();
    let mut command = scene.command("stdout:");
    let mut bridge = command.stdout(output).stderr(fs::File::create(scene.path("log")).unwrap()).spawn().unwrap();
    scene.drained();
    bridge.kill().unwrap();
    bridge.wait().unwrap();
    let marks: Vec<_> = scene.lines().iter().map(|line| line.possibleduplicate.clone()).collect();
    assert_eq!(marks, [Some("true".to_owned()), None]);
    assert_eq!(scene.bodies(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_ends_it_with_1() {
    let scene = Scene::new().await;
    let mut command = scene.command("stdout:");
    let mut bridge = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    drop(bridge.stdout.take());
    scene.push(["1"]);
    eventually("it ends", || bridge.try_wait().unwrap().is_some());
    assert_eq!(bridge.wait().unwrap().code(), Some(1));
    assert_eq!(scene.count(EventKind::Deleted), 0, "what nobody read is not deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_shows_the_difference_applies_it_and_then_has_nothing_to_do() {
    let scene = Scene::new().await;
    let setup = |arguments: &[&str]| {
        let mut setup = command();
        setup.env("GREEN_API_URL", scene.emulator.url()).env("GREEN_API_ID_INSTANCE", ID).env("GREEN_API_TOKEN", TOKEN);
        let (code, stdout, printed) = run(setup.arg("setup").args(arguments));
        assert_eq!((code, stdout.as_str()), (0, ""), "{printed}");
        printed
    };
    let shown = setup(&[]);
    assert!(shown.contains("3 setting(s) differ\n  incomingWebhook: no -> yes\n"), "{shown}");
    assert!(shown.contains("nothing was changed"), "{shown}");
    assert_eq!(scene.count(EventKind::Settings), 0);
    assert!(setup(&["--apply"]).contains("saved"));
    assert_eq!(scene.count(EventKind::Settings), 1);
    for arguments in [&["--apply"][..], &[]] {
        assert_eq!(setup(arguments), format!("instance {ID}: ready, nothing to do\n"));
    }
    assert_eq!(scene.count(EventKind::Settings), 1);
    scene.emulator.set_token(ID, "another");
    let mut refused = command();
    refused.env("GREEN_API_URL", scene.emulator.url()).env("GREEN_API_ID_INSTANCE", ID).env("GREEN_API_TOKEN", TOKEN);
    let (code, _, printed) = run(refused.arg("setup"));
    assert!(
        code == 1 && printed.contains("token_refused") && printed.contains(ID) && !printed.contains(TOKEN),
        "{code} {printed}"
    );
}

#[test]
fn the_demo_crashes_and_loses_nothing() {
    let (code, stdout, stderr) = run(command().args(["demo", "--count", "20"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("the worker was killed"), "{stdout}");
    assert!(stdout.contains("20 stored: 0 lost, 0 doubled, all in order; 0 left in the queue."), "{stdout}");
    let (code, stdout, stderr) = run(command().args(["demo", "--count", "7", "--json"]));
    assert_eq!(code, 0, "{stderr}");
    let bodies: Vec<Line> = stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(bodies.len(), 7);
    assert!(stderr.contains("7 stored: 0 lost"), "{stderr}");
}
