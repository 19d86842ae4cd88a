use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use green_api_bridge::doubt::Memory;
use green_api_bridge::emulator::EventKind;
use green_api_bridge::fleet::{self, Change};
use green_api_bridge::green_api::{GreenApi, Queue};
use green_api_bridge::metrics::Metrics;
use green_api_bridge::notification::InstanceId;
use green_api_bridge::sink::kind::{self, Options};
use green_api_bridge::sink::{Lane, Pending, Sink, SinkError, Stored, file};
use green_api_bridge::token::TokenSource;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::scene::{ID, Scene, TOKEN, numbered};
use crate::support::{ENDS_WITHIN, Worker, command, event, eventually, times};

/// `run` with a config file into a file.
const INTO_FILE: &str = "{file: {path: out.jsonl}}";

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_share_a_file_keep_their_own_order_and_one_that_is_refused_disturbs_nobody() {
    let bodies = numbered(30);
    let mut scene = Scene::fleet(20, &bodies).await;
    scene.emulator.set_token(&scene.instances[0], "another");
    let _worker = scene.start_with("bridge", INTO_FILE);
    let refused = scene.instances.remove(0);
    scene.drained();
    assert_eq!(scene.emulator.queued(&refused), 30);
    assert!(scene.bodies_of(&refused).is_empty());
    assert!(scene.instances.iter().all(|id| scene.bodies_of(id) == bodies));
}

/// A folder of instances, and the bridge that watches it.
pub fn watch(scene: &Scene) -> Worker {
    fs::create_dir(scene.path("instances")).unwrap();
    write_config(scene, "");
    start(scene)
}

pub fn write_config(scene: &Scene, instances: &str) {
    let config = format!("instances: [{instances}]\ninstances_dir: instances\nsink: {{file: {{path: out.jsonl}}}}\n");
    fs::write(scene.path("bridge.yaml"), config).unwrap();
}

pub fn start(scene: &Scene) -> Worker {
    let mut run = command();
    run.current_dir(&scene.folder).args(["run", "--config", "bridge.yaml"]);
    Worker::start(&mut run, &scene.path("log"))
}

/// By a rename, as a file should be replaced.
pub fn write_instance(scene: &Scene, file: &str, id: &str, token: &str) {
    let text = format!("{{id: {id}, api_url: '{}', {token}}}\n", scene.emulator.url());
    let new = scene.path("instances").join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, scene.path("instances").join(file)).unwrap();
}

pub fn stored(scene: &Scene, id: &str, count: usize) {
    eventually("it is stored", || scene.emulator.queued(id) == 0 && scene.bodies_of(id).len() == count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_changes_and_goes_starts_restarts_and_stops_its_instance_alone() {
    let scene = Scene::fleet(2, &numbered(3)).await;
    let (one, other) = (scene.instances[0].clone(), scene.instances[1].clone());
    let bridge = watch(&scene);
    let given = format!("api_token: {TOKEN}");
    write_instance(&scene, "one.yaml", &one, &given);
    stored(&scene, &one, 3);
    assert_eq!(scene.emulator.queued(&other), 3);
    // A mistake is reported and changes nothing.
    write_instance(&scene, "one.yaml", &one, "api_tokn: x");
    bridge.wait_for_log("api_tokn");
    write_instance(&scene, "two.yaml", &other, "api_token: wrong");
    bridge.wait_for_log("token_refused");
    scene.emulator.push(&one, "4");
    stored(&scene, &one, 4);
    write_instance(&scene, "two.yaml", &other, &given);
    stored(&scene, &other, 3);
    fs::remove_file(scene.path("instances/two.yaml")).unwrap();
    bridge.wait_for_log(&event("instance_removed"));
    bridge.wait_for_log(&format!(r#""event":"instance_stopped","instance":"{other}""#));
    scene.emulator.push(&other, "4");
    scene.emulator.push(&one, "5");
    stored(&scene, &one, 5);
    assert_eq!(scene.emulator.queued(&other), 1);
    let log = bridge.log();
    let starts = |id: &str| log.matches(&format!(r#""event":"instance_started","instance":"{id}""#)).count();
    // All that are there at the start are one line.
    assert_eq!((starts(&one), starts(&other)), (0, 2), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_given_twice_runs_from_the_other_file_when_the_first_is_gone() {
    let scene = Scene::fleet(1, &numbered(1)).await;
    let bridge = watch(&scene);
    write_instance(&scene, "one.yaml", ID, "api_token: wrong");
    bridge.wait_for_log("token_refused");
    write_instance(&scene, "two.yaml", ID, &format!("api_token: {TOKEN}"));
    bridge.wait_for_log("given twice");
    assert_eq!(scene.emulator.queued(ID), 1);
    fs::remove_file(scene.path("instances/one.yaml")).unwrap();
    stored(&scene, ID, 1);
    assert_eq!(bridge.log().matches("given twice").count(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_folder_whose_link_is_swapped_is_seen() {
    let scene = Scene::fleet(1, &numbered(1)).await;
    // As Kubernetes does it: the files are links through `..data`, which is swapped by a rename.
    let version = |name: &str, token: &str| {
        fs::create_dir_all(scene.path("instances").join(name)).unwrap();
        let text = format!("{{id: {ID}, api_url: '{}', api_token: {token}}}\n", scene.emulator.url());
        fs::write(scene.path("instances").join(name).join("one.yaml"), text).unwrap();
        let link = |target: &str, name: &str| {
            let new = scene.path("instances/..new");
            std::os::unix::fs::symlink(Path::new(target), &new).unwrap();
            fs::rename(new, scene.path("instances").join(name)).unwrap();
        };
        link(name, "..data");
        link("..data/one.yaml", "one.yaml");
    };
    version("..v1", "wrong");
    write_config(&scene, "");
    let bridge = start(&scene);
    bridge.wait_for_log("token_refused");
    version("..v2", TOKEN);
    stored(&scene, ID, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_token_file_is_used_before_the_old_token_is_refused() {
    let scene = Scene::new().await;
    fs::create_dir(scene.path("instances")).unwrap();
    fs::write(scene.path("token"), TOKEN).unwrap();
    write_config(&scene, &format!("{{id: {ID}, api_url: '{}', api_token_file: token}}", scene.emulator.url()));
    let bridge = start(&scene);
    scene.push(["1"]);
    scene.drained();
    fs::write(scene.path("token"), "another-canary").unwrap();
    bridge.wait_for_log(&event("instance_restarted"));
    scene.emulator.set_token(ID, "another-canary");
    scene.push(["2"]);
    scene.drained();
    assert_eq!(scene.bodies(), ["1", "2"]);
    assert!(!bridge.log().contains("canary"), "{}", bridge.log());
}

/// A sink whose lane panics once, for one instance.
struct Panics {
    sink: Arc<dyn Sink>,
    instance: InstanceId,
    done: Arc<AtomicBool>,
}

struct PanicLane(Box<dyn Lane>, Option<Arc<AtomicBool>>);

#[async_trait]
impl Sink for Panics {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let (lane, memory) = self.sink.open(instance).await?;
        let panics = (instance == self.instance).then(|| Arc::clone(&self.done));
        Ok((Box::new(PanicLane(lane, panics)), memory))
    }
}

#[async_trait]
impl Lane for PanicLane {
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError> {
        if let Some(done) = &self.1 {
            assert!(done.swap(true, Ordering::Relaxed), "on purpose");
        }
        self.0.publish(pending, marked).await
    }

    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError> {
        self.0.already_stored(pending).await
    }

    async fn lost(&mut self) {
        self.0.lost().await;
    }
}

/// A fleet in this process.
struct Running {
    stop: CancellationToken,
    metrics: Metrics,
    fleet: JoinHandle<Result<(), SinkError>>,
    _no_changes: Sender<Change>,
}

/// The scene's instances into its file, through another sink.
fn run_in_process(scene: &Scene, through: impl FnOnce(Arc<dyn Sink>) -> Arc<dyn Sink>) -> Running {
    let (options, metrics) = (file::Options { path: scene.path("out.jsonl") }, Metrics::new("file"));
    let sink = kind::start(&Options::File(options), &scene.path("dead-letters"), 1024, 1, &metrics).unwrap();
    let api = GreenApi::new(Duration::from_secs(5), None, None).unwrap();
    let queue = |id: &String| {
        let source = TokenSource::Given(TOKEN.into());
        Queue::new(api.clone(), id.parse().unwrap(), scene.emulator.url().parse().unwrap(), source).unwrap()
    };
    let (stop, (no_changes, changes)) = (CancellationToken::new(), channel(1));
    let queues = scene.instances.iter().map(queue).collect();
    let fleet = tokio::spawn(fleet::run(queues, changes, through(sink), metrics.clone(), stop.clone()));
    Running { stop, metrics, fleet, _no_changes: no_changes }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.fleet.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_instance_is_counted_and_it_starts_again() {
    let bodies = numbered(20);
    let scene = Scene::fleet(3, &bodies).await;
    let panics = |sink| Panics { sink, instance: ID.parse().unwrap(), done: Arc::default() };
    let running = run_in_process(&scene, |sink| Arc::new(panics(sink)));
    scene.drained();
    assert_eq!(running.metrics.panics(), 1);
    assert!(scene.instances.iter().all(|id| scene.bodies_of(id) == bodies));
    running.end().await;
}

/// A sink that stores, but says so when the time for a delete has passed already.
struct Late(Arc<dyn Sink>);

struct LateLane(Box<dyn Lane>);

#[async_trait]
impl Sink for Late {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let (lane, memory) = self.0.open(instance).await?;
        Ok((Box::new(LateLane(lane)), memory))
    }
}

#[async_trait]
impl Lane for LateLane {
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError> {
        Ok(self.0.publish(pending, marked).await?.only_until(Instant::now()))
    }

    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError> {
        self.0.already_stored(pending).await
    }

    async fn lost(&mut self) {
        self.0.lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_delete_is_sent_after_the_proof_has_run_out_and_nothing_is_stored_twice() {
    let bodies = numbered(5);
    let scene = Scene::fleet(1, &bodies).await;
    let running = run_in_process(&scene, |sink| Arc::new(Late(sink)));
    scene.drained();
    assert_eq!(scene.bodies(), bodies);
    // Each was received, stored, received again, and deleted then.
    assert_eq!(scene.count(EventKind::Deleted), 5);
    assert_eq!(scene.count(EventKind::Received), 10, "{:?}", scene.journal());
    running.end().await;
}

/// A sink whose first lane loses its ownership when that is wanted.
struct Loses {
    sink: Arc<dyn Sink>,
    lost: CancellationToken,
    opened: Arc<AtomicUsize>,
}

struct LosingLane(Box<dyn Lane>, CancellationToken);

#[async_trait]
impl Sink for Loses {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let (lane, memory) = self.sink.open(instance).await?;
        let is_first = self.opened.fetch_add(1, Ordering::Relaxed) == 0;
        let lost = if is_first { self.lost.clone() } else { CancellationToken::new() };
        Ok((Box::new(LosingLane(lane, lost)), memory))
    }
}

#[async_trait]
impl Lane for LosingLane {
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError> {
        self.0.publish(pending, marked).await
    }

    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError> {
        self.0.already_stored(pending).await
    }

    async fn lost(&mut self) {
        self.1.cancelled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_the_ownership_stops_polling() {
    // Before there was any notification, and after one, when the next receive begins beside its delete.
    for count in [0, 1] {
        let bodies = numbered(count + 1);
        let scene = Scene::fleet(1, &bodies[..count]).await;
        let (lost, opened) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let losing = |sink| Loses { sink, lost: lost.clone(), opened: Arc::clone(&opened) };
        let running = run_in_process(&scene, |sink| Arc::new(losing(sink)));
        eventually("it polls", || scene.queued() == 0 && scene.emulator.requests(ID) > count as u64);
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        lost.cancel();
        eventually("the lane is opened again", || opened.load(Ordering::Relaxed) == 2);
        scene.push_to_all(&bodies[count..]);
        scene.drained();
        assert_eq!(scene.bodies(), bodies);
        running.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_never_waits_behind_the_polls_of_others() {
    let scene = Scene::fleet(500, &[]).await;
    let _bridge = scene.start_with("bridge", &format!("{INTO_FILE}\napi: {{receive_timeout_secs: 60}}"));
    eventually("all of them poll", || scene.instances.iter().all(|id| scene.emulator.requests(id) > 0));
    let (bodies, pushed) = (numbered(20), Instant::now());
    scene.push_to_all(&bodies[..1]);
    scene.drained();
    scene.push(bodies.iter().map(String::as_str));
    scene.drained();
    // A poll is answered after 60 seconds.
    assert!(pushed.elapsed() < Duration::from_secs(45), "{:?}", pushed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_instances_stop_before_their_polls_end() {
    let scene = Scene::fleet(times(2_000, 10_000), &[]).await;
    let bridge = scene.start_with("bridge", INTO_FILE);
    eventually("all of them poll", || scene.instances.iter().all(|id| scene.emulator.requests(id) > 0));
    let (status, took) = bridge.stop(nix::sys::signal::Signal::SIGTERM);
    println!("{} instances stopped in {took:?}", scene.instances.len());
    assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
}
