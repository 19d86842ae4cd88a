//! Restricts browsers: they may show the page, but do nothing on behalf of another site.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderValue};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The page: self-contained, with one inline script and one inline style.
pub(super) const PAGE: &str = include_str!("page.html");

const OTHER_NAME: &str = "This port answers only under a name of its own machine: localhost, 127.0.0.1 or [::1].\n";

/// Refuses requests for the name of another machine: otherwise a site whose name was made to resolve to this address (DNS
/// rebinding) could read the answers.
pub(super) async fn under_own_names_alone(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).into_iter().map(HeaderValue::as_bytes);
    let asked = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if hosts.chain(asked).all(is_own_name) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, OTHER_NAME).into_response()
    }
}

/// No name is accepted, because no browser omits it.
fn is_own_name(host: &[u8]) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host();
    let is_ipv4 = name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    let ipv6 = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_ipv6 = ipv6.and_then(|name| name.parse::<Ipv6Addr>().ok()) == Some(Ipv6Addr::LOCALHOST);
    !authority.as_str().contains('@') && (name.eq_ignore_ascii_case("localhost") || is_ipv4 || is_ipv6)
}

/// Adds the security headers to every answer.
pub(super) async fn restrict(mut response: Response) -> Response {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(PAGE));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // For browsers that do not know `frame-ancestors`.
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// Allows the page's own script and style, by their digests, and requests to this port.
fn policy(page: &str) -> HeaderValue {
    let (script, style) = (digest_of(page, "script"), digest_of(page, "style"));
    let policy = format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("digests are ASCII")
}

/// The digest of the text between the tags, as browsers compute it.
fn digest_of(page: &str, element: &str) -> String {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let text = page.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).expect("the page has it").0;
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}
