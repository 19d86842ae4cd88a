//! The paths of requests, which contain the token.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Call;
use crate::notification::{InstanceId, ReceiptId};

/// The paths of the requests of one instance. Those that each notification needs are built once.
#[derive(Clone)]
pub(super) struct Paths {
    /// The path of `apiUrl`, and the instance.
    base: Url,
    receive_timeout: Duration,
    token: SecretString,
    /// With its query.
    receive: SecretString,
    /// Without the receipt.
    delete: SecretString,
}

impl fmt::Debug for Paths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Paths").finish_non_exhaustive()
    }
}

impl Paths {
    /// Below the path of `api_url`. A receive waits for `receive_timeout`.
    pub(super) fn new(api_url: Url, instance: InstanceId, token: SecretString, receive_timeout: Duration) -> Self {
        Self::of(below(api_url, &[&format!("waInstance{instance}")]), token, receive_timeout)
    }

    /// The same with another token.
    pub(super) fn with_token(&self, token: SecretString) -> Self {
        Self::of(self.base.clone(), token, self.receive_timeout)
    }

    fn of(base: Url, token: SecretString, receive_timeout: Duration) -> Self {
        let path = |call: Call| below(base.clone(), &[call.method(), token.expose_secret()]).path().to_owned();
        let receive = format!("{}?receiveTimeout={}", path(Call::Receive), receive_timeout.as_secs()).into();
        let delete = path(Call::Delete).into();
        Self { base, receive_timeout, token, receive, delete }
    }

    pub(super) fn receive(&self) -> &SecretString {
        &self.receive
    }

    pub(super) fn delete(&self, receipt: ReceiptId) -> SecretString {
        format!("{}/{receipt}", self.delete.expose_secret()).into()
    }

    /// The path of a call that has nothing behind the token.
    pub(super) fn call(&self, call: Call) -> SecretString {
        below(self.base.clone(), &[call.method(), self.token.expose_secret()]).path().into()
    }
}

fn below(mut url: Url, segments: &[&str]) -> Url {
    // Never fails: the config accepts only http and https, which have paths.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_segment_of_a_path() {
        let paths = |url: &str| {
            let (url, instance) = (url.parse().unwrap(), "7".parse().unwrap());
            Paths::new(url, instance, "a/b ?é".into(), Duration::from_secs(20))
        };
        for (url, base) in [("http://host", ""), ("https://host:8443/v3", "/v3"), ("https://host/v3/", "/v3")] {
            let paths = paths(url);
            let token = "a%2Fb%20%3F%C3%A9";
            let receive = format!("{base}/waInstance7/receiveNotification/{token}?receiveTimeout=20");
            assert_eq!(paths.receive().expose_secret(), receive);
            let delete = format!("{base}/waInstance7/deleteNotification/{token}/12");
            assert_eq!(paths.delete(serde_json::from_str("12").unwrap()).expose_secret(), delete);
            assert_eq!(
                paths.call(Call::GetState).expose_secret(),
                format!("{base}/waInstance7/getStateInstance/{token}")
            );
            assert!(paths.with_token("c".into()).receive().expose_secret().ends_with("/c?receiveTimeout=20"));
        }
        assert_eq!(format!("{:?}", paths("http://host")), "Paths { .. }");
    }
}
