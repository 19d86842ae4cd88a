//! An emulator in this process, and its queues.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use green_api_bridge::emulator::Emulator;
use green_api_bridge::green_api::{GreenApi, Queue};
use green_api_bridge::token::TokenSource;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub const TOKEN: &str = "bench-token";

/// The emulator has a connection for every poll.
pub fn allow_connections() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

pub fn ids(count: usize) -> Vec<String> {
    (1_101_000_001_u64..).take(count).map(|id| id.to_string()).collect()
}

pub async fn emulator(ids: &[String]) -> Emulator {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Emulator::start(listen, ids.iter().map(|id| (id.clone(), TOKEN.to_owned()))).await.unwrap()
}

pub fn queues(emulator: &Emulator, ids: &[String]) -> Vec<Queue> {
    let api = GreenApi::new(Duration::from_secs(20), None, None).unwrap();
    let queue = |id: &String| {
        let source = TokenSource::Given(TOKEN.into());
        Queue::new(api.clone(), id.parse().unwrap(), emulator.url().parse().unwrap(), source).unwrap()
    };
    ids.iter().map(queue).collect()
}

/// A member of `instances` in a config.
pub fn instance(url: &str, id: &str) -> String {
    format!("{{id: {id}, api_url: '{url}', api_token: {TOKEN}}}")
}

/// A count of what is measured.
pub fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// The results of several rounds, in order. Printed as their median, smallest and largest.
pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = formatter.precision().unwrap_or(0);
        let [smallest, largest] = [self.0[0], self.0[self.0.len() - 1]];
        write!(formatter, "{:.digits$} ({smallest:.digits$} to {largest:.digits$})", self.median())
    }
}
