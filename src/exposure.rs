//! Warns once of each setting that weakens security, because it may be intended.

use std::collections::HashSet;

use secrecy::ExposeSecret;
use tracing::warn;
use url::{Host, Url};

use crate::config::{Config, Instance};
use crate::input_file;

/// Warns of everything except what concerns single instances. Reads the config again if others can read it. Blocks.
pub(crate) fn warn_of(config: &Config) {
    for key in config.sink.kind().unverified() {
        warn!(
            event = "unverified_certificates",
            key,
            "certificates are not verified: whoever is between the bridge and the broker can read and change everything"
        );
    }
    let Some(file) = &config.file else { return };
    let tokens = config.instances.iter().filter(|instance| instance.file.is_none()).filter_map(token);
    let proxy = config.api.proxy.as_ref().and_then(|proxy| proxy.url().password());
    let secrets: Vec<&str> = tokens.chain(proxy).chain(config.sink.kind().secrets()).collect();
    input_file::warn_if_others_read(file, &secrets);
}

/// Warns of instances, once per host.
#[derive(Debug, Default)]
pub(crate) struct OfInstances {
    plain_hosts: HashSet<String>,
}

impl OfInstances {
    /// Reads the instance's file again if others can read it. Blocks.
    pub(crate) fn warn_of(&mut self, instance: &Instance) {
        if let (Some(file), Some(token)) = (&instance.file, token(instance)) {
            input_file::warn_if_others_read(file, &[token]);
        }
        let url = instance.api_url.url();
        if let Some(host) = url.host_str().filter(|_| is_plain(url))
            && self.plain_hosts.insert(host.to_owned())
        {
            warn!(
                event = "unencrypted_token",
                host, "the token goes over the network unencrypted: use https in `api_url`"
            );
        }
    }
}

fn token(instance: &Instance) -> Option<&str> {
    instance.api_token.as_ref().map(ExposeSecret::expose_secret)
}

/// Whether requests leave this machine unencrypted.
fn is_plain(url: &Url) -> bool {
    let is_here = match url.host() {
        None => true,
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
    };
    url.scheme() == "http" && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_what_leaves_this_machine_without_tls() {
        for (url, plain) in [
            ("http://api.greenapi.com", true),
            ("http://10.0.0.1:8080", true),
            ("http://[2001:db8::1]", true),
            ("https://api.greenapi.com", false),
            ("http://localhost:8080", false),
            ("http://127.0.0.2", false),
            ("http://[::1]:8080", false),
            ("http://[::ffff:127.0.0.1]", false),
            ("http://localhost.greenapi.com", true),
        ] {
            assert_eq!(is_plain(&Url::parse(url).unwrap()), plain, "{url}");
        }
    }
}
