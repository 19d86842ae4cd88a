//! Asks a running bridge whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Failure, run, source};
use crate::admin::DEFAULT_LISTEN;

const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the admin port's `/readyz`: exit code 0 when the bridge is ready, otherwise 1. Finds the port as `run` does: from
/// `BRIDGE_ADMIN_LISTEN`, the config, or the default.
#[derive(Debug, Args)]
pub(super) struct Ready {
    /// The config file (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Ready {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let configured = match &self.config {
            Some(path) => source::from_file(path)?.admin,
            None => None,
        };
        let mut address = match run::admin_address(configured.as_ref())? {
            None => DEFAULT_LISTEN,
            Some(admin) => admin.listen.ok_or_else(|| Failure::Failed("the admin port is off".into()))?,
        };
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let unreachable = |error: reqwest::Error| Failure::Failed(format!("no answer from the admin port: {error}"));
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(unreachable)?;
        let answer = client.get(format!("http://{address}/readyz")).send().await.map_err(unreachable)?;
        let ready = answer.status().is_success();
        eprintln!("{}", answer.text().await.map_err(unreachable)?);
        if ready { Ok(()) } else { Err(Failure::Failed("not ready".into())) }
    }
}
