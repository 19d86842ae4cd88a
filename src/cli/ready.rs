//! Asks a running bridge whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::HOST;
use clap::Args;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Failure, run, source};
use crate::admin::DEFAULT_LISTEN;
use crate::error::{self, SetupError};

const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
const LARGEST_ANSWER: usize = 64 * 1024;

/// Queries `/readyz` of the admin port: exit code 0 if the bridge is ready, otherwise 1. Finds the port as `run` does: from
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
        let no_answer = |error| Failure::Failed(SetupError::new("no answer from the admin port", error).into());
        let asked = timeout(ADMIN_TIMEOUT, ask(address)).await.unwrap_or_else(|late| Err(late.into()));
        let (is_ready, text) = asked.map_err(no_answer)?;
        eprintln!("{text}");
        if is_ready { Ok(()) } else { Err(Failure::Failed("not ready".into())) }
    }
}

/// Whether `/readyz` answers with success, and its text.
async fn ask(address: SocketAddr) -> Result<(bool, String), error::Source> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::get("/readyz").header(HOST, address.to_string()).body(Body::empty())?;
    let response = sender.send_request(request).await?;
    let is_ready = response.status().is_success();
    let text = to_bytes(Body::new(response.into_body()), LARGEST_ANSWER).await?;
    Ok((is_ready, String::from_utf8_lossy(&text).into_owned()))
}
