use green_api_bridge::emulator::{Event, EventKind};

use crate::scene::{ID, Scene, numbered};
use crate::support::eventually;

fn entered(condition: &str) -> String {
    format!(r#""condition":"{condition}","cause""#)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_lag_behind_deletes_double_nothing_and_show_no_foreign_reader() {
    let (scene, bodies) = (Scene::new().await, numbered(6));
    scene.emulator.turn(ID, |knobs| knobs.receive_lag_ms = 300);
    scene.push(bodies.iter().map(String::as_str));
    let worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), bodies);
    let received = scene.count(EventKind::Received);
    assert!(received > bodies.len(), "{received} receives: none lagged");
    assert_eq!(scene.count(EventKind::DeleteUnknown), 0, "what lags is not deleted");
    assert!(!worker.log().contains("foreign_reader"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_stays_is_published_once_slowed_down_and_reported_until_it_goes() {
    let (scene, bodies) = (Scene::new().await, numbered(2));
    scene.emulator.turn(ID, |knobs| knobs.head_stays = true);
    scene.push(bodies.iter().map(String::as_str));
    let worker = scene.start_into_file();
    worker.wait_for_log(&entered("stuck_head"));
    // Its first delete, and the five after the third receive each: the last is on its way.
    eventually("the sixth delete", || scene.count(EventKind::DeleteIgnored) == 6);
    assert_eq!(scene.bodies(), bodies[..1], "a copy for each of its receives");
    scene.emulator.turn(ID, |knobs| knobs.head_stays = false);
    scene.drained();
    eventually("the condition is left", || worker.log().contains(r#""condition":"stuck_head"}"#));
    assert_eq!(scene.bodies(), bodies);
    assert!(!worker.log().contains("foreign_reader"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_goes_in_circles_is_published_ever_more_slowly_and_reported() {
    let (scene, bodies) = (Scene::new().await, vec![numbered(2); 4].concat());
    scene.push(bodies.iter().map(String::as_str));
    let worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), bodies, "each of them is there under a receipt of its own");
    let deleted: Vec<Event> = scene.journal().into_iter().filter(|event| event.event == EventKind::Deleted).collect();
    let gaps: Vec<u64> = deleted.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect();
    // The third repeat is the fifth notification: after it there is the first pause.
    assert!(gaps[4] >= 1_000 && gaps[5] >= 2_000 && gaps[6] >= 4_000, "{gaps:?}");
    assert!(worker.log().contains(&entered("stuck_head")), "{}", worker.log());
    assert!(!worker.log().contains("foreign_reader"), "{}", worker.log());
    let another = r#"{"idMessage":"another"}"#;
    scene.push([another]);
    eventually("the condition is left", || worker.log().contains(r#""condition":"stuck_head"}"#));
    scene.drained();
    assert_eq!(scene.bodies().last().map(String::as_str), Some(another));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_bodies_that_do_not_identify_themselves_all_arrive_although_reads_lag() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| knobs.receive_lag_ms = 300);
    scene.push(["{}", r#"{"idMessage":""}"#, r#"{"idMessage":""}"#, r#"{"timestamp":1.5}"#]);
    let _worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), ["{}", r#"{"idMessage":""}"#, r#"{"idMessage":""}"#, r#"{"timestamp":1.5}"#]);
}
