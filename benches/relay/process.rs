//! Processes of their own, so that only what they do is measured.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process, killed when dropped.
pub struct Process(Child);

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
        run.args(["run", "--config", "bridge.yaml"]).env("RUST_LOG", "warn").env("BRIDGE_ADMIN_LISTEN", "off");
        Self::start(folder, run)
    }

    /// This benchmark as a helper process.
    pub fn role(folder: &Path, arguments: &[&str]) -> Self {
        let mut run = Command::new(std::env::current_exe().unwrap());
        run.args(arguments);
        Self::start(folder, run)
    }

    fn start(folder: &Path, mut run: Command) -> Self {
        let log = fs::File::create(folder.join("log")).unwrap();
        Self(run.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
    }

    /// Hundredths of a second.
    pub fn cpu_ticks(&self) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        // User and system time are the 14th and 15th field; the second one is in parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
    }

    /// How long it takes to end when it is asked to.
    pub fn stop(mut self) -> Duration {
        let asked = Instant::now();
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
        asked.elapsed()
    }
}
