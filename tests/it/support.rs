//! What the tests share: the binary as a process, and waiting for a condition.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Far longer than anything takes, far shorter than a test run hanging. The full matrices have more to do.
fn patience() -> Duration {
    Duration::from_secs(if is_long() { 900 } else { 60 })
}

const GLANCE: Duration = Duration::from_millis(10);

/// Within this time a bridge ends when it is asked to. It gives 4 s to what is under way and 5 s to the sink; a poll, which
/// nobody may wait for, takes 20 s. The rest is for a machine that runs other tests at the same time.
pub const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Waits until `condition` holds, looking often.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < patience(), "not within {:?}: {what}", patience());
        std::thread::sleep(GLANCE);
    }
}

/// The binary, without anything of this process's configuration.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_green-api-bridge"));
    for name in ["GREEN_API_URL", "GREEN_API_ID_INSTANCE", "GREEN_API_TOKEN", "GREEN_API_TOKEN_FILE", "BRIDGE_SINK"] {
        command.env_remove(name);
    }
    // Many bridges on one machine: who wants the port, says so.
    command.env_remove("RUST_LOG").env("BRIDGE_ADMIN_LISTEN", "off").stdin(Stdio::null());
    command
}

/// Runs the binary to its end: exit code, stdout, stderr.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// A running bridge; killed when dropped.
pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts it; its stderr goes to `log`, behind what is there.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let stderr = File::options().create(true).append(true).open(log).expect("the log opens");
        let child = command.stderr(stderr).stdout(Stdio::null()).spawn().expect("the binary starts");
        Self { child, log: log.to_owned() }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    pub fn wait_for_log(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Sends a signal and waits for the end; how it ended, and after how long.
    pub fn stop(mut self, signal: nix::sys::signal::Signal) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.signal(signal);
        (self.child.wait().expect("it ends"), begun.elapsed())
    }

    /// Sends a signal and goes on.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a process id"));
        nix::sys::signal::kill(process, signal).expect("it can be signalled");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_some()
    }

    /// Whether a signal stopped it, so that it waits for SIGCONT.
    pub fn is_stopped(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        status.lines().any(|line| line.starts_with("State:\tT"))
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process").count()
    }

    /// Whether it has a thread of this name.
    pub fn has_thread(&self, name: &str) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a process");
        let is_named = |thread: std::path::PathBuf| {
            // It may end at any time.
            fs::read_to_string(thread.join("comm")).is_ok_and(|found| found.trim() == name)
        };
        threads.into_iter().any(|thread| is_named(thread.expect("a thread").path()))
    }

    /// How large a dump of its memory may be, as the system has it.
    pub fn core_limit(&self) -> String {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).expect("a process");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process").count()
    }

    /// What it has in memory, in MiB.
    pub fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        resident.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1024
    }

    /// Waits for it to end by itself.
    pub fn ended(mut self) -> ExitStatus {
        eventually("the bridge ends", || self.child.try_wait().expect("a status").is_some());
        self.child.wait().expect("a status")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a line of the JSON log has the code of its event.
pub fn event(code: &str) -> String {
    format!(r#""event":"{code}""#)
}

/// How often to do a thing: a sample, or with `tests/run --long` all of it.
pub fn times(sample: usize, all: usize) -> usize {
    if is_long() { all } else { sample }
}

/// Random choices of a test that can be made again: the seed is printed, and taken from `BRIDGE_TEST_SEED`.
pub fn seeded() -> fastrand::Rng {
    let seed = std::env::var("BRIDGE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("BRIDGE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Whether all of it is asked for: `tests/run --long`.
pub fn is_long() -> bool {
    std::env::var_os("BRIDGE_TEST_LONG").is_some()
}

/// A value that `tests/run` sets. There is no test without its broker.
pub fn from_test_run(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_unset| panic!("{name} is not set: run the tests with tests/run"))
}

/// Runs one of the foreign clients, in Python or JavaScript; the JSON objects that it printed.
pub fn foreign_client(script: &str, arguments: &[&str]) -> Vec<serde_json::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = if path.extension().is_some_and(|extension| extension == "js") {
        let mut node = Command::new("node");
        node.env("NODE_PATH", from_test_run("BRIDGE_TEST_NODE_PATH"));
        node
    } else {
        Command::new(from_test_run("BRIDGE_TEST_PYTHON"))
    };
    let (code, stdout, stderr) = run(command.arg(path).args(arguments));
    assert_eq!(code, 0, "{script} {arguments:?}: {stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// A broker of one test's own, to be killed; ended when dropped.
pub struct Broker {
    script: PathBuf,
    folder: tempfile::TempDir,
}

impl Broker {
    /// `kind` is a script of tests/brokers.
    pub fn start(kind: &str) -> Self {
        let broker = Self::new(kind);
        broker.start_again();
        broker
    }

    /// A RabbitMQ with more in its rabbitmq.conf.
    pub fn start_rabbitmq_with(setting: &str) -> Self {
        let broker = Self::new("rabbitmq");
        fs::write(broker.folder().join("more.conf"), format!("{setting}\n")).expect("the setting is written");
        broker.start_again();
        broker
    }

    /// A Kafka that admits whoever shows a token which one of these keys has signed.
    pub fn start_kafka_trusting(keys: &str) -> Self {
        let broker = Self::new("kafka");
        fs::write(broker.folder().join("jwks.json"), keys).expect("the keys are written");
        broker.start_again();
        broker
    }

    fn new(kind: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers").join(kind);
        Self { script, folder: tempfile::tempdir().expect("a folder") }
    }

    pub fn start_again(&self) {
        self.tell("start");
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.tell("kill");
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.tell("pause");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.tell("resume");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `start` says under this name.
    pub fn address(&self, name: &str) -> String {
        let environment = fs::read_to_string(self.folder.path().join("env")).expect("a started broker");
        let line = environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.expect(name).trim_matches(['\'', '"']).to_owned()
    }

    /// Of a cluster: `kill` or `start`, as the script of its kind has it, for one node.
    pub fn tell_node(&self, kind: &str, verb: &str, node: &str) {
        Self::call(&self.script.with_file_name(kind), verb, &self.folder().join(node));
    }

    fn tell(&self, verb: &str) {
        Self::call(&self.script, verb, self.folder());
    }

    fn call(script: &Path, verb: &str, folder: &Path) {
        let (code, stdout, stderr) = run(Command::new(script).arg(verb).arg(folder));
        assert_eq!(code, 0, "{verb}: {stdout}{stderr}");
    }
}

/// RabbitMQ's operator, at the node in this folder.
pub fn rabbitmqctl(folder: &Path, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers/rabbitmq");
    let (code, stdout, stderr) = run(Command::new(script).arg("ctl").arg(folder).args(arguments));
    assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Not `kill`: a panic in a drop would hide the test's own.
        Command::new(&self.script).arg("kill").arg(self.folder.path()).output().ok();
    }
}
