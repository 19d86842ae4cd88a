//! The example's bridge and its Redis under kills.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::redis::{Redis, assert_exactly_once, example, start_example};
use crate::scene::{Scene, numbered};
use crate::support::{Worker, eventually, seeded, times};

/// What dies, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kill {
    /// The bridge, at a random moment.
    Bridge,
    /// The bridge, at this step.
    Step(&'static str),
    /// Redis, at a random moment; it is started again.
    Redis,
}

#[tokio::test(flavor = "multi_thread")]
async fn bridge_and_redis_are_killed_and_nothing_is_lost_doubled_or_reordered() {
    // Of each instance, before a kill and after it: more than any step is waited for.
    const SHARE: usize = 4;
    let (mut random, begun) = (seeded(), Instant::now());
    let mut kills = [[Kill::Bridge; 4].as_slice(), &[Kill::Step("stored"); 2], &[Kill::Step("deleted"); 2]].concat();
    kills.extend([Kill::Redis; 2]);
    let mut kills = kills.repeat(times(5, 50));
    random.shuffle(&mut kills);
    let bodies = numbered(2 * SHARE * kills.len());
    let (scene, redis) = (Scene::fleet(3, &[]).await, Redis::start());
    let mut done = BTreeMap::<Kill, usize>::new();
    let mut shares = bodies.chunks(SHARE);
    for kill in kills {
        scene.push_to_all(shares.next().unwrap());
        let waiting = scene.queued();
        let mut command = example(&scene, &redis.url);
        if let Kill::Step(step) = kill {
            command.env("BRIDGE_FAULT", format!("SIGKILL@{step}#{}", random.u32(1..=5)));
        }
        let mut bridge = Worker::start(&mut command, &scene.path("bridge.log"));
        if let Kill::Step(_) = kill {
            eventually("it is killed", || bridge.has_ended());
        } else {
            let deleted = random.usize(1..3 * SHARE);
            eventually("it works", || scene.queued() <= waiting - deleted);
        }
        if kill == Kill::Redis {
            redis.broker.kill();
            redis.broker.start_again();
        }
        let waiting = scene.queued() + 3 * SHARE;
        scene.push_to_all(shares.next().unwrap());
        if kill == Kill::Redis {
            eventually("it goes on", || scene.queued() < waiting);
        }
        bridge.kill();
        *done.entry(kill).or_default() += 1;
    }
    let _bridge = start_example(&scene, "bridge", &redis.url);
    scene.drained();
    assert_exactly_once(&scene, &redis, &bodies);
    let (kills, count) = (done.values().sum::<usize>(), 3 * bodies.len());
    println!("{done:?}: {kills} kills, {count} notifications, {:?}: 0 lost, 0 doubled", begun.elapsed());
}
