//! Each address is used as a whole, or refused without being repeated.

use super::*;

const SECRET: &str = "s3cret";

fn assert_refused(refused: Result<(), &'static str>, address: &str) {
    let message = refused.expect_err(address);
    assert!(!message.is_empty() && !message.contains(SECRET), "{address}: {message}");
}

#[test]
fn an_amqp_address_of_which_a_part_would_be_passed_over_or_replaced_is_refused() {
    for good in [
        "amqp://localhost",
        "amqp://localhost/",
        "amqp://guest:guest@localhost:5672/%2f",
        "amqps://u:s3cret@rabbit.corp:5671/vhost?heartbeat=5&frame_max=131072&channel_max=10&connection_timeout=500",
        "amqp://u:p%40%2f%25s3cret@10.0.0.1/a%2fb",
        "amqp://u:p@s3cret@host/v",
        "amqp://guest:guest@[2001:db8::99]:5672/%2f",
        "amqps://[::1]/v?auth_mechanism=EXTERNAL",
        "amqp://u:s3cret@host/v?heartbeat=0&frame_max=0",
    ] {
        assert_eq!(amqp(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "s3cret",
        "http://u:s3cret@host/v",
        "amqp:u:s3cret@host",
        "amqp:///s3cret",
        "amqp://u:s3cret@/v",
        "amqp://:5672/s3cret",
        "amqp://u:s3cret@host:0/v",
        "amqp://u:s3cret@host:65536/v",
        "amqp://u:s3cret@host/v#fragment",
        "amqp://u:12#s3cret@host/v",
        "amqp://u:12/s3cret@host/v",
        "amqp://u:s3cret@host/a/b",
        "amqp://u:s3cret@host//",
        "amqp://u:s3cret@host/..",
        "amqp://u:s3cret@host/%2e",
        "amqp://:s3cret@host/v",
        "amqp://s3cret@host/v",
        "amqp://s3cret:@host/v",
        "amqp://@host/s3cret",
        "amqp://u:%ffs3cret@host/v",
        "amqp://u:s3cret@host/%ff",
        "amqp://u:s3cret@host/v?heartbeat=s3cret",
        "amqp://u:s3cret@host/v?heartbeat=65536",
        "amqp://u:s3cret@host/v?heartbeat=",
        "amqp://u:s3cret@host/v?heartbeat=5&heartbeat=6",
        "amqp://u:s3cret@host/v?frame_max=10",
        "amqp://u:s3cret@host/v?channel_max=-1",
        "amqp://u:s3cret@host/v?connection_timeout=0",
        "amqp://u:s3cret@host/v?Heartbeat=5",
        "amqp://u:s3cret@host/v?s3cret",
        "amqp://u:s3cret@host/v?cacertfile=/etc/ca.pem",
        "amqp://u:s3cret@host/v?auth_mechanism=kerberos",
        "amqps://u:s3cret@host/v?auth_mechanism=external",
        "amqp://u:s3cret@host/v?auth_mechanism=anonymous",
        "amqp://u:s3cret@ho st/v",
        " amqp://u:s3cret@host/v",
        "amqp://u:s3cret@host/v\n",
        "amqp://u:s3\tcret@host/v",
        "amqp://u:s3cret@[::1/v",
        "amqp://u:s3cret@[fe80::1%25eth0]/v",
        "amqp://u:s3cret@::1/v",
    ] {
        assert_refused(amqp(bad), bad);
    }
}

#[test]
fn a_proxy_that_the_client_would_go_around_is_refused() {
    for good in [
        "http://proxy.corp:3128",
        "http://proxy.corp",
        "HTTP://proxy.corp:3128/",
        "https://user:s3cret@proxy.corp:3129",
        "http://[2001:db8::1]:3128",
        "http://user:p%40s3cret@10.0.0.1:3128",
    ] {
        assert!(proxy(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "htp://u:s3cret@proxy.corp:3128",
        "ftp://u:s3cret@proxy.corp",
        "socks5://u:s3cret@proxy.corp:1080",
        "proxy.corp:3128",
        "u:s3cret@proxy.corp:3128",
        "//proxy.corp:3128",
        "http:proxy.corp:3128",
        "http:///proxy.corp:3128",
        "http://",
        "http://:3128",
        "http://u:s3cret@",
        "http://proxy.corp:0",
        "http://proxy.corp:65536",
        "http://proxy.corp:3128/s3cret",
        "http://proxy.corp:3128/..",
        "http://proxy.corp:3128?s3cret",
        "http://proxy.corp:3128/#s3cret",
        "http://proxy.corp:31 28",
        " http://proxy.corp:3128",
        "http://proxy.corp\\s3cret",
    ] {
        assert_refused(proxy(bad).map(drop), bad);
    }
}

/// The client reads the address in its own way, and goes around a proxy that it cannot read.
#[test]
fn whatever_a_proxys_login_is_made_of_the_client_reads_the_address() {
    for byte in 0..=0xff_u8 {
        let letter = char::from(byte);
        for text in [format!("http://u{letter}r:p@proxy:1"), format!("http://u:p{letter}w@proxy:1")] {
            if let Ok(url) = proxy(&text) {
                let uri: axum::http::Uri = url.as_str().parse().expect("as the client reads it");
                assert!(uri.authority().is_some_and(|authority| authority.host() == url.host_str().unwrap()), "{url}");
            }
        }
    }
}

#[test]
fn an_api_url_is_a_host_and_a_path() {
    for good in ["https://1101.api.greenapi.com", "http://localhost:8080/v3", "https://h/a;b", "https://[::1]:8443"] {
        assert!(api(good).is_ok(), "{good}");
    }
    for bad in [
        "ftp://host",
        "https:host",
        "https:///host",
        "https://",
        "https://host:0",
        "https://host:65536",
        "https://host/?s3cret",
        "https://host/?",
        "https://host/#s3cret",
        "https://u:s3cret@host",
        "https://@host",
        "https://host/a/../s3cret",
        "https://host/%2e%2e/s3cret",
        "https://host\\s3cret",
        "https://ho\tst/s3cret",
        " https://host",
        "https://host/waInstance1101/s3cret",
    ] {
        assert_refused(api(bad).map(drop), bad);
    }
}

#[test]
fn a_bootstrap_server_is_used_as_it_stands_or_refused() {
    for good in [
        "localhost:9092",
        "localhost",
        "kafka_1.corp:9092",
        "10.0.0.1:9092",
        "[2001:db8::1]:9092",
        "[::1]",
        "plaintext://host:9092",
        "one:9092,two:9092, three:9092",
    ] {
        assert_eq!(kafka(good, "PLAINTEXT"), Ok(()), "{good}");
    }
    assert_eq!(kafka("SASL_SSL://host:9092", "sasl_ssl"), Ok(()));
    for bad in [
        "",
        ",",
        "one:9092,",
        ",one:9092",
        "one:9092,,two:9092",
        "one:9092,two:0",
        "one:9092 ,two:9092",
        ":9092",
        "host:",
        "host:0",
        "host:65536",
        "host:65628",
        "host:9092x",
        "host:+9092",
        "host:s3cret",
        "host:9092/s3cret",
        "host:9092?s3cret",
        "host:9092#s3cret",
        "u:s3cret@host:9092",
        "PLAINTEXT://u:s3cret@host:9092",
        "PLAINTEXT://host:9092/s3cret",
        "PLAINTEXT://",
        "PLAINTEXT://:9092",
        "SSL://host:9092",
        "kafka://host:9092",
        "://host:9092",
        "http://s3cret",
        "2001:db8::1:9092",
        "::1",
        "[::1:9092",
        "[::1]9092",
        "[host]:9092",
        "ho st:9092",
        "host:9092 ",
        "host\t:9092",
        "host\\:9092",
    ] {
        assert_refused(kafka(bad, "PLAINTEXT"), bad);
    }
}
