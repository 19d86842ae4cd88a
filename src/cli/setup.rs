//! Prepares instances for polling.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{Failure, printable, run, source};
use crate::error::Chain;
use crate::green_api::settings::{WEBHOOK_URL, required_changes};
use crate::green_api::{Problem, Queue};

/// Prepares the instances for polling: an empty `webhookUrl`, and the wanted kinds of notification (`api.webhooks`) switched on.
/// Shows the differences and applies them only with `--apply`. Without a file the instance comes from `GREEN_API_URL`,
/// `GREEN_API_ID_INSTANCE` and `GREEN_API_TOKEN` or `GREEN_API_TOKEN_FILE`.
#[derive(Debug, Args)]
pub(super) struct Setup {
    /// The config file (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Apply the changes. The instances concerned restart, which takes up to 5 minutes.
    #[arg(long)]
    apply: bool,
}

impl Setup {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = source::instances_from(self.config)?;
        source::print_doubts(&config);
        let mut failed = 0;
        for queue in run::queues(&config.api, &config.instances)? {
            if let Err(problem) = make_ready(&queue, &config.api.webhooks, self.apply).await {
                eprintln!(
                    "instance {}: {}\n  {}: {}",
                    queue.instance(),
                    Chain(&problem),
                    problem.condition,
                    problem.condition.advice()
                );
                failed += 1;
            }
        }
        if failed > 0 {
            Err(Failure::Failed(format!("{failed} instance(s) could not be made ready").into()))
        } else {
            Ok(())
        }
    }
}

async fn make_ready(queue: &Queue, kinds: &[String], apply: bool) -> Result<(), Problem> {
    let instance = queue.instance();
    let settings = queue.settings().await?;
    let changes = required_changes(&settings, kinds);
    if changes.is_empty() {
        eprintln!("instance {instance}: ready, nothing to do");
        return Ok(());
    }
    eprintln!("instance {instance}: {} setting(s) differ", changes.len());
    for (name, wanted) in &changes {
        eprintln!("  {name}: {} -> {}", shown(name, settings.get(name)), shown(name, Some(wanted)));
    }
    if !apply {
        eprintln!("  nothing was changed: run it again with --apply");
        return Ok(());
    }
    queue.change_settings(&changes).await?;
    eprintln!("  saved: the instance restarts, and the settings apply within 5 minutes");
    Ok(())
}

/// Does not show a webhook URL, which may contain a secret.
fn shown(name: &str, value: Option<&Value>) -> String {
    match value.and_then(Value::as_str) {
        None => "(not set)".into(),
        Some("") => "(empty)".into(),
        Some(_) if name == WEBHOOK_URL => "(set)".into(),
        // Whatever upstream says, it stays on its line.
        Some(text) => printable(text).replace('\n', "\\n"),
    }
}
