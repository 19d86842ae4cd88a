//! Checks what parses but cannot work. All mistakes are reported together.

use std::collections::HashSet;

use secrecy::ExposeSecret;

use super::{Api, Config, Instance};
use crate::mistake::{Found, Mistake, Mistakes, Source, unknown};
use crate::notification::InstanceId;
use crate::token;

/// The settings of an instance that switch on kinds of notification. Green API adds new ones.
const SWITCHES: [&str; 16] = [
    "incomingWebhook",
    "incomingMessageStatusWebhook",
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

/// Checks a config and the instances of its folder. `source` is the text that it was read from, if any. What is probably a
/// mistake, but works.
pub(super) fn check(
    config: &Config,
    source: Option<&Source>,
    in_folder: &[(Instance, Source)],
) -> Result<Vec<Mistake>, Mistakes> {
    let mut found = Found::new(source);
    if config.instances.is_empty() && config.instances_dir.is_none() {
        found.add(&[], "no instance: add one to `instances`, or name an `instances_dir`");
    }
    let mut seen = HashSet::new();
    for (index, instance) in config.instances.iter().enumerate() {
        found.within(&["instances", &index.to_string()], |found| {
            check_instance(instance, found);
            check_once(instance, &mut seen, found);
        });
    }
    for (instance, source) in in_folder {
        let mut in_file = Found::new(Some(source));
        check_instance(instance, &mut in_file);
        check_once(instance, &mut seen, &mut in_file);
        found.append(in_file);
    }
    found.within(&["api"], |found| check_api(&config.api, found));
    if !(1..=1 << 20).contains(&config.dead_letter_dir_limit_mib) {
        let text =
            format!("`dead_letter_dir_limit_mib` must be 1 to 1048576, not {}", config.dead_letter_dir_limit_mib);
        found.add(&["dead_letter_dir_limit_mib"], text);
    }
    if config.dead_letter_dir.to_string_lossy().contains(char::is_control) {
        let text = "`dead_letter_dir` contains a control character, perhaps a carriage return at its end";
        found.add(&["dead_letter_dir"], text);
    }
    check_shards(config, &mut found);
    found.within(&["sink", config.sink.kind().name()], |found| config.sink.kind().check(found));
    found.result()
}

/// Checks an instance whose file was read on its own.
pub(super) fn instance(instance: &Instance, source: &Source) -> Result<(), Mistakes> {
    let mut found = Found::new(Some(source));
    check_instance(instance, &mut found);
    found.result().map(drop)
}

fn check_once(instance: &Instance, seen: &mut HashSet<InstanceId>, found: &mut Found<'_>) {
    if !seen.insert(instance.id) {
        let text = format!("instance {} is given twice: two readers of one queue disturb each other", instance.id);
        found.add(&["id"], text);
    }
}

fn check_instance(instance: &Instance, found: &mut Found<'_>) {
    let id = instance.id;
    match (&instance.api_token, &instance.api_token_file) {
        (None, None) => found.add(&["id"], format!("instance {id} needs `api_token_file` or `api_token`")),
        (Some(_), Some(_)) => {
            found.add(&["id"], format!("instance {id} has both `api_token_file` and `api_token`: keep one"));
        }
        (Some(token), None) => {
            if let Some(flaw) = token::flaw(token.expose_secret()) {
                found.add(&["api_token"], format!("instance {id}: `api_token`: {flaw}"));
            }
        }
        (None, Some(_)) => {}
    }
}

fn check_shards(config: &Config, found: &mut Found<'_>) {
    let shards = config.shards;
    if !(1..=64).contains(&shards) {
        found.add(&["shards"], format!("`shards` must be 1 to 64, not {shards}"));
    } else if shards > 1 && !config.sink.kind().can_share() {
        found.add(&["shards"], "`shards` above 1 needs the sink `kafka` or `amqp`: others have one owner");
    }
}

fn check_api(api: &Api, found: &mut Found<'_>) {
    let seconds = api.receive_timeout_secs;
    if !(5..=60).contains(&seconds) {
        found.add(&["receive_timeout_secs"], format!("`receive_timeout_secs` must be 5 to 60, not {seconds}"));
    }
    for (index, switch) in api.webhooks.iter().enumerate() {
        if !SWITCHES.contains(&switch.as_str()) {
            found.doubt(&["webhooks", &index.to_string()], unknown("kind", switch, &SWITCHES));
        }
    }
}
