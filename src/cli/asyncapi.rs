//! Prints the AsyncAPI document of a config.

use clap::Args;

use super::{Failure, Source, print};
use crate::asyncapi;

/// Print what this config publishes as an AsyncAPI document: its topics or queues, and the attributes and bodies of messages.
#[derive(Debug, Args)]
pub(super) struct AsyncApi {
    #[command(flatten)]
    source: Source,
}

impl AsyncApi {
    pub(super) fn run(self) -> Result<(), Failure> {
        let sink = if self.source.config.is_some() { self.source.load()?.sink } else { self.source.sink_alone()? };
        let description = sink.kind().description().map_err(|error| Failure::Configuration(error.into()))?;
        let document = asyncapi::document(description).map_err(|error| Failure::Failed(error.into()))?;
        print(format!("{document:#}\n").as_bytes())
    }
}
