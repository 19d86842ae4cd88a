//! Where something is. Whatever stands in an address is used, or the address is refused: clients would pass over it
//! or take something else instead. Error texts never repeat the address, which may contain a password.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use url::Url;

/// Why an address is refused.
pub(crate) type Refused = Result<(), &'static str>;

/// What RabbitMQ's client reads off the query of an address.
const QUERY: [&str; 5] = ["auth_mechanism", "channel_max", "connection_timeout", "frame_max", "heartbeat"];

/// Less than this every broker refuses.
const SMALLEST_FRAME: u32 = 4096;

/// Whether the URL has a password in it.
pub(crate) fn has_password(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.password().is_some_and(|password| !password.is_empty()))
}

/// Whether this can be the address of a RabbitMQ.
pub(crate) fn amqp(text: &str) -> Refused {
    const FORM: &str = "must look like amqps://USER:PASSWORD@HOST:5671/VHOST";
    const DECODED: &str = "has a %-escape that is not UTF-8";
    let url = parse(text).map_err(|problem| problem.unwrap_or(FORM))?;
    let host = url.host_str().unwrap_or_default();
    if !matches!(url.scheme(), "amqp" | "amqps") || host.is_empty() {
        return Err(FORM);
    }
    if url.fragment().is_some() {
        return Err("has a `#`, behind which nothing is read: write it as %23");
    }
    if url.port() == Some(0) {
        return Err("has the port 0, where nothing can listen");
    }
    let (authority, path) = parts(text);
    // Behind a port it would begin the path, for the parser.
    if authority.rsplit('@').next().is_some_and(|place| place.contains('\\')) {
        return Err(FORM);
    }
    let mechanism = amqp_query(&url)?;
    let has_user = !url.username().is_empty();
    match (authority.contains('@'), &*mechanism) {
        (true, "external" | "anonymous") => {
            return Err("has a user or a password, which this auth_mechanism does not use: leave them out");
        }
        (true, _) if !has_user || url.password().is_none_or(str::is_empty) => {
            return Err("must have both a user and a password before the `@`, or neither (guest:guest)");
        }
        _ => {}
    }
    for part in [url.username(), url.password().unwrap_or_default(), host, path] {
        decoded(part).ok_or(DECODED)?;
    }
    let vhost = path.strip_prefix('/').unwrap_or_default();
    if vhost.contains('/') {
        return Err("has a `/` in its vhost, or in a password: write it as %2f");
    }
    if matches!(decoded(vhost).as_deref(), Some("." | "..")) {
        return Err("has a vhost that no address can name");
    }
    Ok(())
}

/// The query's mechanism of login, once all of the query can be used.
fn amqp_query(url: &Url) -> Result<String, &'static str> {
    let mut seen = Vec::new();
    let mut mechanism = "plain".to_owned();
    for (name, value) in url.query_pairs() {
        if !QUERY.contains(&&*name) {
            return Err(
                "may have heartbeat, frame_max, channel_max, connection_timeout and auth_mechanism behind the \
                        `?`, and nothing else: certificates go into `ca_file` and `client_identity_file`",
            );
        }
        if seen.contains(&name) {
            return Err("says one thing twice behind the `?`");
        }
        let usable = match &*name {
            "auth_mechanism" => {
                mechanism = value.to_lowercase();
                ["plain", "amqplain", "external", "anonymous", "rabbit-cr-demo"].contains(&mechanism.as_str())
            }
            "frame_max" => value.parse().is_ok_and(|bytes: u32| bytes == 0 || bytes >= SMALLEST_FRAME),
            "connection_timeout" => value.parse().is_ok_and(|milliseconds: u64| milliseconds > 0),
            _ => value.parse::<u16>().is_ok(),
        };
        if !usable {
            return Err("has a value behind the `?` that cannot be used");
        }
        seen.push(name);
    }
    Ok(mechanism)
}

/// Whether this can be a proxy. Of another scheme, or of none, the client would use no proxy at all.
pub(crate) fn proxy(text: &str) -> Result<Url, &'static str> {
    const FORM: &str = "must look like http://HOST:PORT or https://USER:PASSWORD@HOST:PORT";
    let url = web(text).map_err(|problem| problem.unwrap_or(FORM))?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("has something behind HOST:PORT, which a proxy does not use: leave it out");
    }
    // The client reads the address once more in its own way, and uses no proxy when it cannot.
    let read: Result<axum::http::Uri, _> = url.as_str().parse();
    read.is_ok_and(|uri| uri.authority().is_some()).then_some(url).ok_or(FORM)
}

/// Whether this can be the address of the API.
pub(crate) fn api(text: &str) -> Result<Url, &'static str> {
    const FORM: &str = "must look like https://1101.api.greenapi.com, without user, query or token";
    let url = web(text).map_err(|problem| problem.unwrap_or(FORM))?;
    let (authority, _) = parts(text);
    let plain = !authority.contains('@')
        && url.query().is_none()
        && url.fragment().is_none()
        && !url.path().contains("waInstance");
    plain.then_some(url).ok_or(FORM)
}

/// http or https, with a host.
fn web(text: &str) -> Result<Url, Option<&'static str>> {
    let url = parse(text)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_lowercase());
    let (authority, path) = parts(text);
    if !matches!(scheme.as_deref(), Some("http" | "https")) || authority.is_empty() || authority.ends_with('@') {
        return Err(None);
    }
    if url.port() == Some(0) {
        return Err(Some("has the port 0, where nothing can listen"));
    }
    let moves = |segment: &str| matches!(decoded(segment).as_deref(), Some("." | ".."));
    if text.contains('\\') || path.split('/').any(moves) {
        return Err(Some("has a `\\`, or a `.` or `..` as a part of its path"));
    }
    Ok(url)
}

/// Whether this can be one of `bootstrap_servers`, or several with commas, for clients that speak `protocol`. The client goes
/// to `localhost` when a name is missing, to another port when this one is none, and passes over all that follows what it
/// cannot read.
pub(crate) fn kafka(text: &str, protocol: &str) -> Refused {
    text.split(',').try_for_each(|text| kafka_broker(text.trim_start_matches(' '), protocol))
}

fn kafka_broker(text: &str, protocol: &str) -> Refused {
    const FORM: &str = "must look like HOST:PORT, an IPv6 address in brackets";
    let rest = match text.split_once("://") {
        None => text,
        Some((scheme, rest)) if protocol.eq_ignore_ascii_case(scheme) => rest,
        Some(_) => return Err("has another scheme than `security.protocol` in `properties`: leave the scheme out"),
    };
    if rest.contains(['@', '/', '?', '#']) {
        return Err("must be HOST:PORT and nothing more: a login goes into `properties`");
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<Ipv6Addr>().map_err(|_repeats_it| FORM)?;
            ("", port)
        }
        None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte) || !byte.is_ascii();
    if !host.bytes().all(legal) || (host.is_empty() && !rest.starts_with('[')) {
        return Err(FORM);
    }
    // Without a port it is 9092.
    let Some(port) = port.strip_prefix(':') else { return if port.is_empty() { Ok(()) } else { Err(FORM) } };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let usable = is_number && port.parse().is_ok_and(|port: u16| port > 0);
    if usable { Ok(()) } else { Err("must have a port from 1 to 65535") }
}

/// The host in the form that clients expect: IPv6 without brackets.
#[cfg(feature = "amqp")]
pub(crate) fn ipv6_host(text: &str) -> Option<Ipv6Addr> {
    match Url::parse(text).ok()?.host()? {
        url::Host::Ipv6(address) => Some(address),
        url::Host::Ipv4(_) | url::Host::Domain(_) => None,
    }
}

/// A URL in which nothing is passed over: the parser drops spaces around it, tabs and line ends.
fn parse(text: &str) -> Result<Url, Option<&'static str>> {
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(Some("has a space or a control character in it"));
    }
    Url::parse(text).map_err(|_may_repeat_it| None)
}

/// The authority and the path, as they are written.
fn parts(text: &str) -> (&str, &str) {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// What a %-escape means, when it is text.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
