use std::time::Duration;

use green_api_bridge::emulator::{EventKind, Fault, FaultKind, Method};

use crate::scene::{ID, Scene, numbered};
use crate::support::{ENDS_WITHIN, event, eventually, times};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_overlapped_receive_brings_again_is_neither_published_nor_deleted() {
    let scene = Scene::new().await;
    // The delete never reaches the queue, and its answer never comes.
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    scene.push(["1", "2"]);
    let worker = scene.start_into_file();
    eventually("the head is received again, beside its delete", || scene.count(EventKind::Received) == 2);
    // Nothing more happens until the delete is given up; then the head is a redelivery.
    worker.wait_for_log(&event("delivered_again"));
    let journal = scene.journal();
    let before = journal.iter().position(|event| event.event == EventKind::Deleted);
    let events: Vec<_> = journal[2..before.unwrap_or(journal.len())].iter().map(|event| event.event).collect();
    let count = |kind| events.iter().filter(|event| **event == kind).count();
    // The first receive, the one beside the hanging delete, and that of the redelivery.
    assert_eq!((count(EventKind::Received), count(EventKind::Faulted), events.len()), (3, 1, 4), "{events:?}");
    scene.drained();
    assert_eq!(scene.bodies(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_overlapped_receive_brings_is_published_only_after_the_delete_is_given_up() {
    let scene = Scene::new().await;
    // The delete takes effect, and its answer never comes.
    scene.fault(Fault::after(FaultKind::Hang).on(Method::DeleteNotification));
    scene.push(["1", "2"]);
    let worker = scene.start_into_file();
    eventually("the next head is received", || scene.count(EventKind::Received) == 2);
    assert_eq!(scene.bodies(), ["1"]);
    worker.wait_for_log("upstream_unavailable");
    assert_eq!(scene.bodies(), ["1"], "published while its predecessor's delete was unanswered");
    scene.drained();
    assert_eq!(scene.bodies(), ["1", "2"]);
    // On a busy machine the first may have come again, beside its delete.
    let journal = scene.journal();
    let second = journal.iter().filter(|event| event.event == EventKind::Pushed).nth(1).unwrap();
    let receives = journal.iter().filter(|event| event.event == EventKind::Received && event.sha256 == second.sha256);
    assert_eq!(receives.count(), 1, "it did not have to be received again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_received_in_overlap_is_not_published_after_the_stop() {
    let scene = Scene::new().await;
    scene.emulator.set_delay(ID, Duration::from_millis(300));
    scene.push(["1", "2"]);
    let worker = scene.start_into_file();
    eventually("the first is deleted", || scene.count(EventKind::Deleted) == 1);
    let (status, took) = worker.stop(nix::sys::signal::Signal::SIGTERM);
    assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
    assert_eq!(scene.bodies(), ["1"]);
    assert_eq!(scene.count(EventKind::Deleted), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_overlapped_receives_bring_stale_heads_they_are_given_up() {
    let (scene, bodies) = (Scene::new().await, numbered(40));
    scene.emulator.turn(ID, |knobs| knobs.stale_heads = true);
    // Long enough for a receive to arrive before the delete that was sent before it has taken effect.
    scene.emulator.set_delay(ID, Duration::from_millis(50));
    scene.push(bodies[..30].iter().map(String::as_str));
    let worker = scene.start_into_file();
    worker.wait_for_log(&event("overlap_disabled"));
    scene.drained();
    let before = scene.count(EventKind::Received);
    assert!(before >= 40, "{before} receives for 30 notifications: no stale head came");
    scene.push(bodies[30..].iter().map(String::as_str));
    scene.drained();
    assert_eq!(scene.count(EventKind::Received) - before, 10);
    assert_eq!(scene.bodies(), bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_at_full_speed_lose_and_double_nothing() {
    let bodies = numbered(times(100, 2_000));
    let scene = Scene::fleet(50, &bodies).await;
    let _worker = scene.start_with("bridge", "{file: {path: out.jsonl}}");
    scene.drained();
    let lines = scene.lines();
    assert_eq!(lines.len(), 50 * bodies.len());
    for id in &scene.instances {
        let of_instance: Vec<String> =
            lines.iter().filter(|line| line.idinstance == *id).map(crate::scene::Line::body).collect();
        assert_eq!(of_instance, bodies, "{id}");
    }
}
