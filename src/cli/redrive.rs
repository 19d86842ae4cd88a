//! Publishes dead letters again.

use clap::Args;

use super::{Failure, Source, run};
use crate::config::{Log, default_dead_letter_dir};
use crate::notification::InstanceId;
use crate::sink::redrive::{From, Selection};
use crate::sink::{Reason, kind};
use crate::telemetry;

/// Publishes dead letters again, to the topic or queue where they belonged, with their attributes and `redriven`. Can be run
/// beside the bridge, and again after a crash: on Kafka no letter is redriven twice, on RabbitMQ a possible second copy is
/// marked. Each letter is reported on standard error; exit code 1 if one could not be published.
///
/// RabbitMQ's queues cannot be read without a trace: a message that a dry run or a selection passed over counts as delivered
/// once, so it is marked when it is redriven later.
#[derive(Debug, Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    source: Source,
    /// Where the dead letters are: `dead_letter_topic`, `dead_letter_queue`, the queue of messages that consumers rejected,
    /// or `dead_letter_dir`.
    #[arg(long)]
    from: From,
    /// Only dead letters of this instance.
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Only dead letters with this reason. Without it, all but `malformed` and `too_large`.
    #[arg(long)]
    reason: Option<Reason>,
    /// Show what would be redriven, and publish nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Redrive {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.from == From::Rejected && self.reason.is_some() {
            return Err(Failure::Usage("--reason: rejected messages have no reason of the bridge's".into()));
        }
        let (sink, dead_letters) = if self.source.config.is_some() {
            let config = self.source.load()?;
            telemetry::start(&config.log);
            (config.sink, config.dead_letter_dir)
        } else {
            telemetry::start(&Log::default());
            (self.source.sink_alone()?, default_dead_letter_dir())
        };
        let Self { from, instance, reason, dry_run, .. } = self;
        let selection = Selection { from, instance, reason, dry_run };
        let folder = run::dead_letter_folder(&dead_letters);
        let redrive =
            tokio::task::block_in_place(|| kind::redrive(&sink, &folder, selection, |line| eprintln!("{line}")));
        let redrive = redrive.map_err(|error| Failure::Failed(error.into()))?;
        let would = if dry_run { "would be " } else { "" };
        eprintln!(
            "{} {would}redriven, {} redriven earlier, {} passed over, {} refused",
            redrive.redriven, redrive.already, redrive.passed_over, redrive.refused
        );
        if redrive.refused == 0 {
            Ok(())
        } else {
            Err(Failure::Failed("some dead letters could not be published".into()))
        }
    }
}
