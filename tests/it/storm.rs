use std::time::{Duration, Instant};

use green_api_bridge::emulator::{DeleteUnknown, Fault, FaultKind, Method, ReceiptIds, ReceiptOnRedelivery};

use crate::kafka_kills::assert_exactly_once;
use crate::kafka_topics::Topics;
use crate::scene::{Scene, answer, numbered, times as repeated};
use crate::support::{seeded, times};

const HTML: &str = "<html><head><title>Bad Gateway</title></head></html>";
const UNKNOWN: &str = "Cannot read properties of undefined (reading 'findUnAckedMessage')";

/// Something that goes wrong with a request of this method.
fn any_fault(method: Method, random: &mut fastrand::Rng) -> Fault {
    let status = *random.choice(&[400, 408, 429, 466, 499, 500, 503, 504]).unwrap();
    let of_both = [
        Fault::before(answer(status, "")),
        Fault::before(answer(403, HTML)),
        Fault::before(answer(502, HTML)),
        repeated(random.u32(1..=3), Fault::before(answer(401, ""))),
        Fault::before(FaultKind::Reset),
        Fault::after(FaultKind::Reset),
        Fault::after(FaultKind::Truncate),
        Fault::after(FaultKind::Slow(random.u64(10..500))),
        Fault::before(answer(200, HTML)),
        Fault::after(answer(200, "")),
        Fault::after(answer(500, "")),
    ];
    let of_one = match method {
        Method::ReceiveNotification => [Fault::before(answer(200, "null")), Fault::after(answer(200, "null"))],
        _ => [Fault::before(answer(200, r#"{"result":false}"#)), Fault::after(answer(500, UNKNOWN))],
    };
    let all: Vec<Fault> = of_both.into_iter().chain(of_one).collect();
    random.choice(all).unwrap().on(method)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_bad_answers_costs_time_and_nothing_else() {
    let mut random = seeded();
    let bodies = numbered(times(40, 100));
    let (scene, topics) = (Scene::fleet(times(20, 200), &bodies).await, Topics::new());
    for (number, id) in scene.instances.iter().enumerate() {
        scene.emulator.turn(id, |knobs| {
            knobs.receipt_ids = ReceiptIds::RestartOnReboot;
            if number % 2 == 0 {
                knobs.receipt_on_redelivery = ReceiptOnRedelivery::New;
            }
            if number % 3 == 0 {
                knobs.delete_unknown = DeleteUnknown::FindUnAcked;
            }
            knobs.false_empty_every = 17;
        });
        for method in [Method::ReceiveNotification, Method::DeleteNotification] {
            for _ in 0..bodies.len() / 10 {
                let fault = any_fault(method, &mut random);
                // So many go well before it, on the side on which it strikes.
                let pass = Fault { kind: FaultKind::Pass, times: random.u32(4..12), ..fault.clone() };
                scene.emulator.fault(id, pass);
                scene.emulator.fault(id, fault);
            }
        }
    }
    let begun = Instant::now();
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    while scene.queued() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(600), "{} are left", scene.queued());
        // Receipts restart at 1, now here and now there.
        scene.emulator.reboot(random.choice(&scene.instances).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (took, count) = (begun.elapsed(), (scene.instances.len() * bodies.len()) as u64);
    let requests: u64 = scene.instances.iter().map(|id| scene.emulator.requests(id)).sum();
    let allowed = 4 * count + 2 * took.as_secs() * scene.instances.len() as u64;
    println!("{count} notifications in {took:?} with {requests} requests, {allowed} would be allowed");
    assert_exactly_once(&scene, &topics, &bodies);
    assert!(requests <= allowed);
}
