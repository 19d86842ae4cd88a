//! Checks everything that the bridge needs, without changing anything.

use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Failure, Source, printable, run};
use crate::config::Instance;
use crate::doctor::Check;
use crate::green_api::doctor::examine;
use crate::notification::InstanceId;
use crate::sink::kind;

/// How many instances are checked at the same time.
const AT_ONCE: usize = 50;

/// Checks everything that the bridge needs: secrets, Green API, token, state and settings of the instances, the broker, its
/// topics or queues, the right to use transactions. Receives and changes nothing, and can be run beside the bridge. Exit code 1
/// if a check failed.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    source: Source,
    /// Check only this instance, and the sink.
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Print the checks as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.source.load_with_doubts()?;
        let is_wanted = |instance: &Instance| self.instance.is_none_or(|wanted| wanted == instance.id);
        let instances: Vec<Instance> = config.instances.into_iter().filter(is_wanted).collect();
        if let Some(wanted) = self.instance.filter(|_| instances.is_empty()) {
            return Err(Failure::Usage(format!("--instance: the config has no instance {wanted}").into()));
        }
        let client = run::client(&config.api)?;
        let kinds: Arc<Vec<String>> = Arc::new(config.api.webhooks);
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let mut asked = JoinSet::new();
        let mut checks = Vec::new();
        for instance in &instances {
            match run::queue(&client, instance) {
                Err(failure) => checks.push(Check::of(instance.id, "secrets", Err(failure.to_string().into()))),
                Ok(queue) => {
                    checks.push(Check::of(instance.id, "secrets", Ok("the token can be read".into())));
                    let (at_once, kinds) = (Arc::clone(&at_once), Arc::clone(&kinds));
                    asked.spawn(async move {
                        let _turn = at_once.acquire_owned().await;
                        examine(&queue, &kinds).await
                    });
                }
            }
        }
        while let Some(examined) = asked.join_next().await {
            checks.extend(examined.map_err(|error| Failure::Failed(error.into()))?);
        }
        checks.sort_by_key(|check| check.instance);
        let folder = run::dead_letter_folder(&config.dead_letter_dir);
        checks.extend(kind::examine(config.sink, config.shards, folder, config.dead_letter_dir_limit_mib).await);
        self.show(&checks)?;
        let failed = checks.iter().filter(|check| !check.ok).count();
        if failed == 0 { Ok(()) } else { Err(Failure::Failed(format!("{failed} check(s) failed").into())) }
    }

    fn show(&self, checks: &[Check]) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string(&json!({"ok": checks.iter().all(|check| check.ok), "checks": checks}));
            println!("{}", json.map_err(|error| Failure::Failed(error.into()))?);
            return Ok(());
        }
        for Check { instance, check, ok, detail } in checks {
            let subject = instance.map_or_else(|| "sink".to_owned(), |id| format!("instance {id}"));
            eprintln!("{}  {subject}: {check}: {}", if *ok { "ok    " } else { "FAILED" }, printable(detail));
        }
        Ok(())
    }
}
