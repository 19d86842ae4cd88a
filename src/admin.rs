//! The HTTP port for operators: liveness, readiness, status and metrics.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::info;

use crate::condition::Condition;
use crate::metrics::{InstanceMetrics, Metrics, Outcome, now};
use crate::notification::InstanceId;
use crate::sink::session::Shard;

use shards::ShardsShown;
use shared::Shared;

mod browser;
mod connections;
mod open_metrics;
mod shards;
mod shared;

/// The default address.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

/// What the answers are derived from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The metrics of the fleet and its sink.
    pub metrics: Metrics,
    /// How long a poll may take before its instance no longer counts as polling.
    pub poll_limit: Duration,
    /// The guarantee for consumers.
    pub guarantee: &'static str,
}

impl Admin {
    /// Listens, and serves in the background until the process ends.
    ///
    /// # Errors
    /// If the address is in use or does not belong to this machine.
    pub async fn start(self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        tokio::spawn(connections::serve(listener, self.router(address)));
        info!(event = "admin_listening", %address, "the admin port answers");
        Ok(address)
    }

    fn router(self, address: SocketAddr) -> Router {
        let mut router = Router::new()
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .route("/", get(|| async { Html(browser::PAGE) }));
        // Under which names others reach a public address is unknown.
        if address.ip().to_canonical().is_loopback() {
            router = router.route_layer(middleware::from_fn(browser::under_own_names_alone));
        }
        router
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .layer(middleware::map_response(browser::restrict))
            .with_state(Arc::new(Answers { admin: self, metrics: Shared::default(), status: Shared::default() }))
    }

    fn readiness(&self) -> Readiness {
        let (sink, shards) = (self.metrics.sink().works(), self.metrics.sink().shards());
        let polling = |status: &InstanceMetrics| {
            let silent = now().saturating_sub(status.asked.get());
            !status.unanswered.load(Relaxed) && silent <= self.poll_limit.as_secs()
        };
        // Where replicas share, only the shards that are held here count. A replica may hold none.
        let is_here = |instance: &InstanceId| {
            shards.len() < 2 || Shard::of_instance(*instance, &shards).is_some_and(|shard| shard.is_held())
        };
        let mut instances = self.metrics.instances();
        instances.retain(|(instance, _)| is_here(instance));
        let fleet = instances.is_empty() || instances.iter().any(|(_, status)| polling(status));
        let mut waiting_for = Vec::new();
        if !sink {
            waiting_for.push("the sink is not connected");
        }
        if !fleet {
            // Without a sink nothing is polled, and Green API is not the cause.
            let unanswered = instances.iter().any(|(_, status)| status.unanswered.load(Relaxed));
            waiting_for.push(if unanswered {
                "no instance gets an answer from Green API"
            } else {
                "no instance polls"
            });
        }
        Readiness { ready: sink && fleet, sink, fleet, waiting_for }
    }

    fn status(&self) -> Status {
        let mut advice = BTreeMap::new();
        let mut names = |conditions: Vec<Condition>| -> Vec<String> {
            advice.extend(conditions.iter().map(|condition| (condition.to_string(), condition.advice())));
            conditions.iter().map(ToString::to_string).collect()
        };
        let metrics = self.metrics.sink();
        let sink = SinkShown {
            kind: metrics.name,
            up: metrics.works(),
            guarantee: self.guarantee,
            conditions: names(metrics.conditions()),
            rejected_messages: metrics.rejected(),
            dead_letter_dir_bytes: metrics.dead_letter_dir_bytes.get(),
            shards: ShardsShown::of(&metrics.shards()),
        };
        let shown = |(id, status): (InstanceId, Arc<InstanceMetrics>)| InstanceShown {
            id,
            conditions: names(status.conditions.present()),
            last_notification: time(status.last_notification.get()),
            last_success: time(status.last_success.get()),
            sequence: status.sequence.get(),
            received: status.received.total(),
            published: status.published.total(),
            redelivered: status.redelivered.get(),
            retries: status.publish_errors() + status.polls(Outcome::Error).get() + status.deletes_unconfirmed.get(),
            dead_lettered: status.dead_lettered(),
        };
        let instances: Vec<InstanceShown> = self.metrics.instances().into_iter().map(shown).collect();
        let dead_lettered = instances.iter().map(|instance| instance.dead_lettered).sum();
        let readiness = self.readiness();
        Status { version: env!("CARGO_PKG_VERSION"), readiness, sink, advice, dead_lettered, instances }
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    sink: bool,
    fleet: bool,
    waiting_for: Vec<&'static str>,
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    readiness: Readiness,
    sink: SinkShown,
    /// The advice for each condition that is entered anywhere.
    advice: BTreeMap<String, &'static str>,
    dead_lettered: u64,
    instances: Vec<InstanceShown>,
}

#[derive(Serialize)]
struct SinkShown {
    kind: &'static str,
    up: bool,
    guarantee: &'static str,
    conditions: Vec<String>,
    /// In the queue of messages that consumers rejected, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected_messages: Option<u32>,
    dead_letter_dir_bytes: u64,
    /// Only where replicas share.
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<ShardsShown>,
}

#[derive(Serialize)]
struct InstanceShown {
    id: InstanceId,
    conditions: Vec<String>,
    last_notification: Option<String>,
    last_success: Option<String>,
    sequence: u64,
    received: u64,
    published: u64,
    redelivered: u64,
    retries: u64,
    dead_lettered: u64,
}

fn time(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(Timestamp::from_second(seconds).ok()?.to_string())
}

async fn livez(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    if answers.admin.metrics.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the fleet has been silent for a minute\n")
    }
}

async fn readyz(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    let readiness = answers.admin.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness))
}

/// The state of the handlers. The long texts are cached because they grow with the number of instances.
struct Answers {
    admin: Admin,
    metrics: Shared,
    status: Shared,
}

async fn metrics(State(answers): State<Arc<Answers>>) -> Result<impl IntoResponse, StatusCode> {
    let text = answers.metrics.get(|| open_metrics::encode(&answers.admin.metrics)).await;
    let text = text.map_err(|_format| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

async fn status(State(answers): State<Arc<Answers>>) -> Result<impl IntoResponse, StatusCode> {
    let text = answers.status.get(|| serde_json::to_string(&answers.admin.status())).await;
    let text = text.map_err(|_format| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}
