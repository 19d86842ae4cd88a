//! Opens connections to Green API: names, TCP, TLS and the proxy.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::time::{Instant, timeout};
use tower_service::Service;
use tracing::warn;
use url::Url;

use super::addresses::Addresses;

/// Name, TCP, TLS and proxy together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The minimum interval between two connections that replace old ones.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(20);

/// A byte stream to the server or, for plain HTTP, to the proxy.
pub(super) trait Stream: Read + Write + Send + Unpin {}

impl<S: Read + Write + Send + Unpin> Stream for S {}

/// The HTTP client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be built")]
pub struct ClientError(#[source] Box<dyn Error + Send + Sync>);

impl ClientError {
    pub(super) fn of(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Opens the connections of all instances. Clones share names and TLS sessions.
#[derive(Clone)]
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    tcp: HttpConnector<Addresses>,
    tls: Arc<ClientConfig>,
    proxy: Option<Intercept>,
    /// When the next connection may replace an old one.
    next_renewal: Mutex<Instant>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// `certificates` (PEM) are trusted in addition to the system's.
    pub(super) fn new(proxy: Option<&Url>, certificates: Option<&[u8]>) -> Result<Self, ClientError> {
        let mut tcp = HttpConnector::new_with_resolver(Addresses::default());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(15)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(15)));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
        let certificates = CertificateDer::pem_slice_iter(certificates.unwrap_or_default())
            .collect::<Result<Vec<_>, _>>()
            .map_err(ClientError::of)?;
        let tls = Arc::new(tls(certificates).map_err(ClientError::of)?);
        // The same for every URL: there are no exceptions.
        let any = Uri::from_static("http://host");
        let intercept = |proxy: &Url| Matcher::builder().all(proxy.as_str()).build().intercept(&any);
        let proxy = match proxy {
            None => None,
            Some(proxy) => Some(intercept(proxy).ok_or_else(|| ClientError::of("the proxy has no usable address"))?),
        };
        Ok(Self(Arc::new(Shared { tcp, tls, proxy, next_renewal: Mutex::new(Instant::now()) })))
    }

    /// The proxy for plain HTTP to this URL, which has to be asked differently.
    pub(super) fn plain_proxy(&self, url: &Uri) -> Option<&Intercept> {
        self.0.proxy.as_ref().filter(|_| url.scheme_str() == Some("http"))
    }

    /// Opens a connection to the host of this URL. Cancel safe.
    pub(super) async fn open(&self, url: &Uri) -> Result<Box<dyn Stream>, Box<dyn Error + Send + Sync>> {
        let (mut tcp, url) = (self.0.tcp.clone(), url.clone());
        let tls = Arc::clone(&self.0.tls);
        let is_plain = url.scheme_str() == Some("http");
        let opening = async move {
            Ok::<Box<dyn Stream>, Box<dyn Error + Send + Sync>>(match (&self.0.proxy, is_plain) {
                (None, true) => Box::new(tcp.call(url).await?),
                (None, false) => Box::new(HttpsConnector::from((tcp, tls)).call(url).await?),
                (Some(proxy), true) => Box::new(HttpsConnector::from((tcp, tls)).call(proxy.uri().clone()).await?),
                (Some(proxy), false) => {
                    let to_proxy = HttpsConnector::from((tcp, Arc::clone(&tls)));
                    let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
                    if let Some(login) = proxy.basic_auth() {
                        tunnel = tunnel.with_auth(login.clone());
                    }
                    Box::new(HttpsConnector::from((tunnel, tls)).call(url).await?)
                }
            })
        };
        timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_late| Err("no connection within 10 s".into()))
    }

    /// Whether a connection may be replaced now because of its age: thousands are not to be renewed at once.
    pub(super) fn may_renew(&self) -> bool {
        let (now, mut next) = (Instant::now(), self.0.next_renewal.lock().unwrap_or_else(PoisonError::into_inner));
        let may = now >= *next;
        if may {
            *next = now + RENEWAL_INTERVAL;
        }
        may
    }
}

/// A machine that has no certificates can still use plain HTTP, and the config's own.
fn tls(certificates: Vec<CertificateDer<'static>>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Verifier::new_with_extra_roots(certificates.iter().cloned(), provider);
    let trusting = if let Ok(verifier) = verifier {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate)?;
        }
        warn!(
            event = "no_ca_certificates",
            "the system has no CA certificates: only those of `api.ca_file` are trusted"
        );
        builder.with_root_certificates(roots)
    };
    let mut config = trusting.with_no_client_auth();
    config.alpn_protocols = vec!["http/1.1".into()];
    Ok(config)
}
