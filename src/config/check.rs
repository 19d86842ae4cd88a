//! Mistakes of meaning: what is well written and cannot be right. All of them are told together.

use std::collections::HashSet;
use std::path::Path;

use secrecy::ExposeSecret;
use serde_saphyr::{Location, Spanned};

use super::{Api, Config, Instance};
use crate::mistake::{Found, Mistakes, unknown};

/// The switches of `setSettings` that put kinds of notification into the queue.
const SWITCHES: [&str; 15] = [
    "incomingWebhook",
    "outgoingWebhook",
    "outgoingMessageWebhook",
    "outgoingAPIMessageWebhook",
    "stateWebhook",
    "statusInstanceWebhook",
    "deviceWebhook",
    "pollMessageWebhook",
    "editedMessageWebhook",
    "deletedMessageWebhook",
    "incomingCallWebhook",
    "outgoingCallWebhook",
    "incomingBlockWebhook",
    "catalogWebhook",
    "statusInstanceChangedWebhook",
];

pub(super) fn check(config: Config, file: Option<&Path>) -> Result<Config, Mistakes> {
    let mut found = Found { file, mistakes: Vec::new() };
    if config.instances.is_empty() && config.instances_dir.is_none() {
        found.add(Location::UNKNOWN, "no instance: add one to `instances`, or name an `instances_dir`");
    }
    let mut seen = HashSet::new();
    for instance in &config.instances {
        found.file = instance.file.as_deref().or(file);
        check_instance(instance, &mut found);
        if !seen.insert(instance.id.value) {
            let text =
                format!("instance {} is given twice: two readers of one queue disturb each other", instance.id.value);
            found.add(instance.id.referenced, text);
        }
    }
    found.file = file;
    check_api(&config.api, &mut found);
    check_limit(&config.dead_letter_dir_limit_mib, &mut found);
    check_shards(&config, &mut found);
    config.sink.kind().check(&mut found);
    let mistakes = found.mistakes;
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

fn check_shards(config: &Config, found: &mut Found<'_>) {
    let Spanned { value, referenced, .. } = config.shards;
    if !(1..=64).contains(&value) {
        found.add(referenced, format!("`shards` must be 1 to 64, not {value}"));
    } else if value > 1 && !config.sink.kind().can_share() {
        found.add(referenced, "`shards` above 1 needs the sink `kafka` or `amqp`: others have one owner");
    }
}

/// One that is read by itself.
pub(super) fn instance(instance: Instance, file: &Path) -> Result<Instance, Mistakes> {
    let mut found = Found { file: Some(file), mistakes: Vec::new() };
    check_instance(&instance, &mut found);
    if found.mistakes.is_empty() { Ok(instance) } else { Err(Mistakes(found.mistakes)) }
}

fn check_instance(instance: &Instance, found: &mut Found<'_>) {
    let id = instance.id.value;
    match (&instance.api_token, &instance.api_token_file) {
        (None, None) => {
            found.add(instance.id.referenced, format!("instance {id} needs `api_token_file` or `api_token`"));
        }
        (Some(_), Some(_)) => {
            found.add(
                instance.id.referenced,
                format!("instance {id} has both `api_token_file` and `api_token`: keep one"),
            );
        }
        (Some(token), None) if token.expose_secret().trim().is_empty() => {
            found.add(instance.id.referenced, format!("instance {id}: `api_token` is empty"));
        }
        _ => {}
    }
}

fn check_limit(limit_mib: &Spanned<u64>, found: &mut Found<'_>) {
    if !(1..=1 << 20).contains(&limit_mib.value) {
        found.add(
            limit_mib.referenced,
            format!("`dead_letter_dir_limit_mib` must be 1 to 1048576, not {}", limit_mib.value),
        );
    }
}

fn check_api(api: &Api, found: &mut Found<'_>) {
    let seconds = &api.receive_timeout_secs;
    if !(5..=60).contains(&seconds.value) {
        found.add(seconds.referenced, format!("`receive_timeout_secs` must be 5 to 60, not {}", seconds.value));
    }
    for switch in &api.webhooks {
        if !SWITCHES.contains(&switch.value.as_str()) {
            found.add(switch.referenced, unknown("kind", &switch.value, &SWITCHES));
        }
    }
}
