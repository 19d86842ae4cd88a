//! Processes of their own, so that only what they do is measured.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// A process, killed when dropped.
pub struct Process(Child, PathBuf);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    /// The bridge, with this config.
    pub fn bridge(folder: &Path, config: &str) -> Self {
        fs::write(folder.join("bridge.yaml"), config).unwrap();
        let mut run = Command::new(env!("CARGO_BIN_EXE_green-api-bridge"));
        run.args(["run", "--config", "bridge.yaml"]);
        Self::start(folder, run)
    }

    /// This benchmark as a helper process.
    pub fn role(folder: &Path, arguments: &[&str]) -> Self {
        let mut run = Command::new(std::env::current_exe().unwrap());
        run.args(arguments);
        Self::start(folder, run)
    }

    /// Its standard error goes into the file `log`.
    pub fn start(folder: &Path, mut run: Command) -> Self {
        run.env("RUST_LOG", "warn").env("BRIDGE_ADMIN_LISTEN", "off");
        let path = folder.join("log");
        let log = fs::File::create(&path).unwrap();
        run.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(run.spawn().unwrap_or_else(|error| panic!("{run:?}: {error}")), path)
    }

    pub fn resident_kib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// The processor time that it has taken.
    pub fn cpu_seconds(&self) -> f64 {
        Duration::from(clock_getcpuclockid(self.pid()).and_then(ClockId::now).unwrap()).as_secs_f64()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// A measurement does not wait for a process that has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.0.try_wait().unwrap() {
            panic!("{status}: {}", fs::read_to_string(&self.1).unwrap());
        }
    }

    /// How long it takes to end when it is asked to.
    pub fn stop(mut self) -> Duration {
        let asked = Instant::now();
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success() || status.signal() == Some(Signal::SIGTERM as i32), "{status}");
        asked.elapsed()
    }
}
