//! Whoever reaches the admin port, by intent or by accident, costs it little and learns nothing that is not for them.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::admin::{free_address, readiness, start, text};
use crate::scene::{Scene, numbered};
use crate::support::{Worker, eventually};

const INTO_FILE: &str = "{file: {path: out.jsonl}}";
/// Far longer than any limit of the port.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection on which this was sent.
async fn sent(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    stream
}

/// All that comes until the connection ends, in order or not.
async fn rest_of(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends").ok();
    String::from_utf8(answer).expect("text")
}

async fn asked(address: &str, request: &str) -> String {
    rest_of(sent(address, request).await).await
}

/// The code, the head in lower case, the body.
fn parts(answer: &str) -> (u16, String, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body)
}

async fn is_open(stream: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(100), stream.read_u8()).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_end_is_given_up_after_five_seconds() {
    let (scene, address) = (Scene::new().await, free_address());
    let _bridge = start(&scene, INTO_FILE, &address);
    readiness(&address, 200).await;
    for begun in ["", "GET /livez HTTP/1.1\r\nHost: localhost\r\n"] {
        let stream = sent(&address, begun).await;
        let at = Instant::now();
        rest_of(stream).await;
        assert!((4..PATIENCE.as_secs()).contains(&at.elapsed().as_secs()), "{begun:?}: {:?}", at.elapsed());
    }
    // Nor does it help to send another byte now and then.
    let (mut slow, at) = (sent(&address, "GET /livez HTTP/1.1\r\nX: ").await, Instant::now());
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while slow.write_all(b"x").await.is_ok() {
        assert!(at.elapsed() < PATIENCE, "still open");
        pace.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn for_the_connection_too_many_the_one_idle_longest_is_closed() {
    let (scene, address) = (Scene::new().await, free_address());
    let bridge = start(&scene, INTO_FILE, &address);
    readiness(&address, 200).await;
    let before = bridge.open_files();
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(sent(&address, "").await);
    }
    eventually("all are accepted", || bridge.open_files() >= before + 60);
    assert!(is_open(&mut idle[0]).await, "64 are not too many");
    assert_eq!(text(&address, "/livez").await, "ok\n");
    rest_of(idle.remove(0)).await;
    // The next ones were opened in the same moment: it was not its time that was over.
    assert!(is_open(&mut idle[0]).await && is_open(&mut idle[62]).await, "one for one");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_keep_no_probe_from_its_answer() {
    // The second is fewer than the port may have: then accepting itself fails.
    for files in [128, 56] {
        let (scene, address) = (Scene::new().await, free_address());
        let bridge = scene.command_with("bridge", INTO_FILE);
        let mut limited = Command::new("sh");
        limited.current_dir(&scene.folder).arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\""));
        limited.arg(bridge.get_program()).args(bridge.get_args()).env("BRIDGE_ADMIN_LISTEN", &address);
        let bridge = Worker::start(&mut limited, &scene.path("bridge.log"));
        readiness(&address, 200).await;
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(sent(&address, "").await);
        }
        let at = Instant::now();
        let probe = sent(&address, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let probe = timeout(PATIENCE, async { rest_of(probe.await).await }).await.expect("an answer");
        assert!(probe.ends_with("ok\n"), "{files} files: {probe:?}");
        assert!(at.elapsed() < Duration::from_secs(4), "{files} files: {:?}", at.elapsed());
        drop(bridge);
    }
}

/// What the answers of that bridge are longer than.
const SMALLEST: usize = 600_000;

/// A bridge of so many instances that an answer with all of them is larger than what a connection takes by itself.
async fn many_instances() -> (Scene, String, Worker) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (scene, address) = (Scene::fleet(4_000, &[]).await, free_address());
    let mut command = scene.command_with("bridge", INTO_FILE);
    command.env("BRIDGE_ADMIN_LISTEN", &address).env("RUST_LOG", "info");
    let bridge = Worker::start(&mut command, &scene.path("bridge.log"));
    readiness(&address, 200).await;
    eventually("all poll", || scene.instances.iter().all(|id| scene.emulator.requests(id) > 0));
    (scene, address, bridge)
}

/// A client whose side of the connection holds next to nothing.
async fn sent_by_a_small_client(address: &str, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    stream
}

/// Three hundred ask and read nothing: that costs next to no memory, and after ten seconds no connection.
async fn assert_given_up(path: &str) {
    let (_scene, address, bridge) = many_instances().await;
    assert!(text(&address, path).await.len() > SMALLEST, "{path} is too short to be kept waiting");
    let (files, memory) = (bridge.open_files(), bridge.memory());
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(sent_by_a_small_client(&address, &request).await);
    }
    assert_eq!(timeout(PATIENCE, text(&address, "/livez")).await, Ok("ok\n".into()), "{path}");
    let (at, mut most) = (Instant::now(), 0);
    while bridge.open_files() > files + 8 {
        most = most.max(bridge.memory());
        assert!(at.elapsed() < PATIENCE, "{} are open, {most} MiB", bridge.open_files() - files);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = most.saturating_sub(memory);
    println!("{path}: {grown} MiB, given up after {:?}", at.elapsed());
    assert!(grown < 60, "{path}: {grown} MiB for 300 that do not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_nobody_takes_cost_one_text_and_ten_seconds() {
    assert_given_up("/metrics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_nobody_takes_costs_one_text_and_ten_seconds() {
    assert_given_up("/status").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_taken_a_little_at_a_time_is_given_up_as_well() {
    let (_scene, address, _bridge) = many_instances().await;
    let mut slow = sent_by_a_small_client(&address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let (at, mut taken) = (Instant::now(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut some = [0; 512];
    // In order or by a reset: the answer is not whole.
    while let Ok(count @ 1..) = slow.read(&mut some).await {
        taken += count;
        if at.elapsed() < Duration::from_secs(20) {
            pace.tick().await;
        }
        assert!(taken < SMALLEST, "it got everything in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_s_own_machine_is_answered_under_its_own_names_alone() {
    let scene = Scene::fleet(1, &numbered(1)).await;
    let address = free_address();
    let _bridge = start(&scene, INTO_FILE, &address);
    readiness(&address, 200).await;
    let port = address.rsplit_once(':').unwrap().1;
    let with = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    let own = ["localhost", "LocalHost", "localhost:1", "127.0.0.1", &format!("127.0.0.1:{port}"), "127.1.2.3:80"];
    let others = ["example.org", "example.org:9464", "localhost.example.org", "127.0.0.1.example.org", "10.0.0.1"];
    let odd = ["[::2]", "128.0.0.1", "user@localhost", "localhost/", "localhost, example.org", "\u{e4}"];
    for path in ["/", "/status", "/metrics"] {
        for host in own.into_iter().chain(["[::1]", "[::1]:80", ""]) {
            let answer = asked(&address, &with(path, &format!("Host: {host}\r\n"))).await;
            assert_eq!(parts(&answer).0, 200, "{path} of {host:?}: {answer}");
        }
        for none in [with(path, ""), format!("GET {path} HTTP/1.0\r\n\r\n")] {
            assert_eq!(parts(&asked(&address, &none).await).0, 200, "{none}");
        }
        for host in others.into_iter().chain(odd) {
            let answer = asked(&address, &with(path, &format!("Host: {host}\r\n"))).await;
            let (code, _, output) = parts(&answer);
            assert!(code == 421 || (code == 400 && odd.contains(&host)), "{path} of {host:?}: {answer}");
            let is_a_sentence = output.ends_with(".\n") && output.lines().count() == 1;
            assert!(code == 400 || is_a_sentence && !output.contains(host), "{output:?}");
        }
        let both = with(path, "Host: localhost\r\nHost: example.org\r\n");
        assert!([400, 421].contains(&parts(&asked(&address, &both).await).0), "{path}");
        let absolute = with(&format!("http://example.org{path}"), "Host: localhost\r\n");
        assert_eq!(parts(&asked(&address, &absolute).await).0, 421, "{path}");
    }
    for path in ["/livez", "/readyz"] {
        let answer = asked(&address, &with(path, "Host: example.org\r\n")).await;
        assert_eq!(parts(&answer).0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_for_others_has_names_that_only_they_know() {
    let (scene, address) = (Scene::new().await, free_address());
    let _bridge = start(&scene, INTO_FILE, &address.replace("127.0.0.1", "0.0.0.0"));
    readiness(&address, 200).await;
    let request = "GET /status HTTP/1.1\r\nHost: bridge.example.org\r\nConnection: close\r\n\r\n";
    assert_eq!(parts(&asked(&address, request).await).0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_run_show_and_guess_nothing_else() {
    let (scene, address) = (Scene::new().await, free_address());
    let _bridge = start(&scene, INTO_FILE, &address);
    readiness(&address, 200).await;
    let answers = [("/", "localhost", 200), ("/status", "localhost", 200), ("/metrics", "localhost", 200)];
    let more = [("/livez", "localhost", 200), ("/nothing", "localhost", 404), ("/status", "example.org", 421)];
    for (path, host, code) in answers.into_iter().chain(more) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = asked(&address, &request).await;
        let (output, head, _) = parts(&answer);
        assert_eq!(output, code, "{path}: {head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect(path);
        for directive in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
            assert!(policy.split("; ").any(|part| part == directive), "{path}: {directive} is not in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for header in ["x-content-type-options: nosniff", "x-frame-options: deny"] {
            assert!(head.lines().any(|line| line == header), "{path}: {head}");
        }
    }
}
