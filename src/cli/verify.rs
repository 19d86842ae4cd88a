//! Audits what was published.

use clap::Args;

use super::{Failure, Source, run};
use crate::config::{Log, default_dead_letter_dir};
use crate::notification::InstanceId;
use crate::sink::kind;
use crate::telemetry;
use crate::verify::{Findings, Report};

/// Reads everything that was published, including dead letters, and reports per instance what is lost, duplicated without a
/// mark, or reordered. Exit code 1 if anything is. Changes nothing and can be run beside the bridge; only with --drain it
/// empties RabbitMQ's queues.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    source: Source,
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
    /// RabbitMQ: consume. Every message in the queue and in the dead-letter queue is read, acknowledged and thereby removed.
    /// Required for quorum and classic queues, which cannot be read otherwise.
    #[arg(long)]
    drain: bool,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (sink, dead_letters, instances) = if self.source.config.is_some() {
            let config = self.source.load()?;
            let instances: Vec<InstanceId> = config.instances.iter().map(|instance| instance.id).collect();
            telemetry::start(&config.log);
            (config.sink, config.dead_letter_dir, instances)
        } else {
            telemetry::start(&Log::default());
            (self.source.sink_alone()?, default_dead_letter_dir(), Vec::new())
        };
        let folder = run::dead_letter_folder(&dead_letters);
        let report = tokio::task::block_in_place(|| kind::verify(&sink, &folder, &instances, self.drain));
        let report = report.map_err(|error| Failure::Failed(error.into()))?;
        self.show(&report)?;
        if report.ok { Ok(()) } else { Err(Failure::Failed("something is lost, doubled or reordered".into())) }
    }

    fn show(&self, report: &Report) -> Result<(), Failure> {
        if self.json {
            let json = serde_json::to_string(report);
            println!("{}", json.map_err(|error| Failure::Failed(error.into()))?);
            return Ok(());
        }
        eprintln!(
            "{:>20} {:>12} {:>8} {:>8} {:>8} {:>8} {:>10} {:>13}",
            "instance", "published", "lost", "doubled", "repeated", "marked", "reordered", "dead_lettered"
        );
        for found in &report.instances {
            let Findings { id, published, lost, doubled, repeated, marked, reordered, dead_lettered } = found;
            eprintln!(
                "{id:>20} {published:>12} {lost:>8} {doubled:>8} {repeated:>8} {marked:>8} {reordered:>10} {dead_lettered:>13}"
            );
        }
        Ok(())
    }
}
