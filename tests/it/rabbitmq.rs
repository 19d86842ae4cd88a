use green_api_bridge::emulator::{self, EventKind, Fault, FaultKind, Method};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::rabbitmq_queues::{Message, Names};
use crate::scene::{ID, Scene, TOKEN, numbered};
use crate::support::{event, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_body_arrives_once_in_order_with_its_properties() {
    let (scene, names) = (Scene::new().await, Names::new());
    let bodies: Vec<&str> = emulator::notifications().collect();
    // The first delete hangs: what it is about must be in the queue by then.
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    scene.push(bodies.iter().copied());
    let _bridge = scene.start_with("bridge", &names.sink(""));
    eventually("a delete arrives", || scene.count(EventKind::Faulted) == 1);
    let first = names.read(1);
    assert_eq!(
        (first[0].body.as_str(), scene.count(EventKind::Deleted)),
        (bodies[0], 0),
        "published before its delete"
    );
    scene.drained();
    let messages: Vec<Message> = first.into_iter().chain(names.read(bodies.len() - 1)).collect();
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), bodies);
    let marks: Vec<bool> = messages.iter().map(Message::is_marked).collect();
    assert!(marks[0] && !marks[1..].contains(&true), "the first head is marked, and only that: {marks:?}");
    let epoch = messages[0].header("epoch").unwrap();
    assert!(epoch.len() == 13 && epoch.bytes().all(|digit| digit.is_ascii_digit()), "{epoch}");
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("https://green-api.com/waInstance{ID}").as_bytes());
    for (index, message) in messages.iter().enumerate() {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let id = Uuid::new_v5(&namespace, message.body.as_bytes()).to_string();
        let kind = format!("com.green-api.{}", body["typeWebhook"].as_str().unwrap());
        assert_eq!(message.header("specversion"), Some("1.0"));
        assert_eq!((message.header("id"), message.header("type")), (Some(id.as_str()), Some(kind.as_str())));
        assert_eq!(message.header("source"), Some("/green-api/waInstance1101000001"));
        assert_eq!(message.header("sequence").unwrap(), format!("{:020}", index + 1));
        assert_eq!(message.header("epoch"), Some(epoch));
        assert_eq!((message.header("idinstance"), message.header("time").unwrap().ends_with('Z')), (Some(ID), true));
        let properties = &message.value["properties"];
        let wanted = json!({"content_type": "application/json", "delivery_mode": 2, "message_id": id, "type": kind,
                            "timestamp": properties["timestamp"], "app_id": "green-api-bridge"});
        assert_eq!(properties, &wanted);
        if let Some(seconds) = body["timestamp"].as_u64() {
            assert_eq!(properties["timestamp"].as_u64(), Some(seconds));
        }
        assert_eq!(message.value["routing_key"], format!("{ID}.{}", body["typeWebhook"].as_str().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_and_large_bodies_pass_byte_for_byte() {
    let (scene, names) = (Scene::new().await, Names::new());
    let large = format!(r#"{{"textMessage":"{}"}}"#, "x".repeat(3 << 20));
    let odd =
        ["null", "{}", "{\"a\":1,\"a\":2}", "[123456789012345678901234567890]", r#"{"\ud800":1}"#, "{\n}", &large];
    scene.push(odd);
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    assert_eq!(names.read(odd.len()).iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), odd);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_is_not_deleted_and_flows_when_one_is_bound() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1", "2"]);
    let bridge = scene.start_with("bridge", &names.sink_without_queue(", on_unroutable: wait"));
    bridge.wait_for_log("no queue takes it");
    assert_eq!((scene.emulator.queued(ID), scene.count(EventKind::Deleted)), (2, 0));
    names.operate(&[
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name, "routing_key": "#"})),
    ]);
    scene.drained();
    let messages = names.read(2);
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(messages[0].is_marked(), "a mark is never taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_becomes_a_dead_letter() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push([r#"{"typeWebhook":"incomingCall"}"#]);
    let bridge = scene.start_with("bridge", &names.sink_without_queue(""));
    scene.drained();
    let dead = names.read_from("dead", 1);
    assert_eq!((dead.len(), dead[0].body.as_str()), (1, r#"{"typeWebhook":"incomingCall"}"#));
    assert_eq!(dead[0].header("deadletterreason"), Some("unroutable"));
    let destination = format!("{}/{ID}.incomingCall", names.name);
    assert_eq!(dead[0].header("originaldestination"), Some(destination.as_str()));
    assert_eq!(bridge.log().matches("\"message\":\"dead letter\"").count(), 1, "{}", bridge.log());
    // lapin would log the whole returned message, as numbers.
    assert!(!bridge.log().contains("data: ["), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_becomes_a_dead_letter_between_the_good_ones() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1", "NaN", "2"]);
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    assert_eq!(names.read(2).iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let dead = names.read_from("dead", 1);
    assert_eq!((dead[0].body.as_str(), dead[0].header("deadletterreason")), ("NaN", Some("malformed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_lag_behind_deletes_double_nothing() {
    let (scene, names, bodies) = (Scene::new().await, Names::new(), crate::scene::numbered(4));
    scene.emulator.turn(ID, |knobs| knobs.receive_lag_ms = 300);
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let messages = names.read(bodies.len());
    assert_eq!(messages.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), bodies);
    assert_eq!(messages.iter().filter(|message| message.is_marked()).count(), 1, "the first of the ownership alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_broker_goes_into_the_folder_and_disturbs_nobody() {
    let (scene, names) = (Scene::new().await, Names::new());
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(17 << 20));
    scene.push(["1", &large, "2"]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let messages = names.read(2);
    let seen: Vec<_> = messages.iter().map(|message| (message.body.as_str(), message.is_marked())).collect();
    assert_eq!(seen, [("1", true), ("2", false)]);
    assert_eq!(messages[1].header("sequence"), Some(format!("{:020}", 3).as_str()), "dead letters are counted");
    let files: Vec<_> =
        std::fs::read_dir(scene.path("dead-letters")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(std::fs::metadata(&files[0]).unwrap().len() > 17 << 20);
    assert!(bridge.log().contains(r#""reason":"too_large""#), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_confirm_and_delete_the_second_copy_is_marked() {
    let (scene, names) = (Scene::new().await, Names::new());
    let bodies = numbered(3);
    scene.push([bodies[0].as_str()]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    scene.push(bodies[1..].iter().map(String::as_str));
    eventually("a delete arrives", || scene.count(EventKind::Faulted) == 1);
    bridge.kill();
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let messages = names.read(4);
    let seen: Vec<_> = messages.iter().map(|message| (message.body.as_str(), message.is_marked())).collect();
    let [first, second, third] = [0, 1, 2].map(|index| bodies[index].as_str());
    assert_eq!(seen, [(first, true), (second, false), (second, true), (third, false)]);
    assert_eq!(messages[1].header("id"), messages[2].header("id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_waits_for_ownership_and_takes_over() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    let first = scene.start_with("first", &names.sink(""));
    scene.drained();
    let second = scene.start_with("second", &names.sink(""));
    second.wait_for_log("waiting_for_ownership");
    first.kill();
    second.wait_for_log(&event("sink_owned"));
    scene.push(["2"]);
    scene.drained();
    assert_eq!(names.read(2).iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_waited_out_and_no_secret_is_logged() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push([r#"{"text":"m3ssage-canary"}"#]);
    let file = scene.path("uri");
    std::fs::write(&file, names.uri.replace("guest:guest@", "guest:passw0rd-canary@")).unwrap();
    let sink = names.sink(&format!(", uri_file: {}", file.display()));
    let bridge = scene.start_with("bridge", &sink);
    bridge.wait_for_log("sink_unavailable");
    assert!(bridge.log().contains("ACCESS_REFUSED"), "{}", bridge.log());
    std::fs::write(&file, &names.uri).unwrap();
    scene.drained();
    bridge.wait_for_log(&event("condition_cleared"));
    for canary in ["passw0rd-canary", "m3ssage-canary", "guest:guest", TOKEN] {
        assert!(!bridge.log().contains(canary), "{canary}: {}", bridge.log());
    }
    // What is no address at all is refused at the start, and not repeated.
    std::fs::write(&file, "guest:passw0rd-canary@localhost").unwrap();
    let refused = scene.start_with("refused", &sink);
    let log = scene.path("refused.log");
    assert_eq!(refused.ended().code(), Some(78));
    let output = std::fs::read_to_string(log).unwrap();
    assert!(output.contains("sink.amqp.uri_file") && !output.contains("passw0rd-canary"), "{output}");
}
