use std::collections::BTreeMap;
use std::time::Instant;

use crate::rabbitmq_queues::{Names, assert_kept, marks_due};
use crate::scene::{Scene, numbered};
use crate::support::{eventually, seeded, times};

/// Each step of a notification's way, in order; see src/fault.rs.
pub const STEPS: [&str; 4] = ["before_publish", "published", "stored", "deleted"];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_notification_nothing_is_lost_or_doubled_without_a_mark() {
    let (mut random, begun) = (seeded(), Instant::now());
    let bodies = numbered(times(20, 200));
    let (scene, names) = (Scene::fleet(50, &bodies).await, Names::new());
    let mut kills = BTreeMap::<&str, usize>::new();
    for step in STEPS.repeat(times(1, 8)) {
        let fault = format!("SIGKILL@{step}#{}", random.u32(1..=5));
        let mut bridge = scene.start_with_fault("bridge", &names.sink(""), &fault);
        let mut killed = false;
        eventually("killed, or nothing left to do", || {
            killed = bridge.has_ended();
            killed || scene.queued() == 0
        });
        *kills.entry(step).or_default() += usize::from(killed);
    }
    assert!(STEPS.iter().all(|step| kills[step] > 0), "not reached: {kills:?}");
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let due = marks_due(&scene, &bridge.log());
    print!("{kills:?} kills, {:?}: ", begun.elapsed());
    assert_kept(&scene, &names.read(50 * bodies.len()), &bodies, due);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_with_fifty_instances_nothing_is_lost_or_doubled_without_a_mark() {
    let (mut random, begun) = (seeded(), Instant::now());
    let kills = times(6, 200);
    let bodies = numbered(20 * kills);
    let (scene, names) = (Scene::fleet(50, &bodies).await, Names::new());
    for kill in 1..=kills {
        let bridge = scene.start_with("bridge", &names.sink(""));
        // Anywhere within the share of this kill.
        let left = 50 * bodies.len() - 50 * 20 * kill + random.usize(1..800);
        eventually("it works", || scene.queued() <= left);
        bridge.kill();
    }
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let due = marks_due(&scene, &bridge.log());
    print!("{kills} kills, {:?}: ", begun.elapsed());
    assert_kept(&scene, &names.read(50 * bodies.len()), &bodies, due);
}
