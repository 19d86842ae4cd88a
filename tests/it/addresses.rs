use std::fs;
use std::sync::{Arc, Mutex};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::scene::{ID, Scene, TOKEN};
use crate::support::{command, run};

/// The config of an instance at `api_url`, into a file, through this proxy.
fn write_config(scene: &Scene, api_url: &str, proxy: &str) {
    let instance = format!("instances: [{{id: {ID}, api_url: '{api_url}', api_token: {TOKEN}}}]\n");
    let rest = format!("sink: {{file: {{path: out.jsonl}}}}\napi: {{proxy: '{proxy}'}}\n");
    fs::write(scene.path("bridge.yaml"), instance + &rest).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_asked_goes_through_the_proxy_with_its_login() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let behind = scene.emulator.url().trim_start_matches("http://").to_owned();
    let heads = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (behind, seen) = (behind.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    // A connection that is opened and not used says nothing.
                    let Ok(byte) = near.read_u8().await else { return };
                    head.push(byte);
                }
                seen.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let mut far = TcpStream::connect(behind).await.unwrap();
                far.write_all(&head).await.unwrap();
                // Whoever ends first, ends it.
                copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    // A name that only the proxy could find.
    write_config(&scene, "http://api.invalid", &format!("http://us%65r:p%40ss@{proxy}"));
    scene.push(["1", "2"]);
    let mut command = command();
    command.current_dir(&scene.folder).args(["run", "--config", "bridge.yaml"]);
    let bridge = crate::support::Worker::start(&mut command, &scene.path("log"));
    scene.drained();
    drop(bridge);
    let heads = heads.lock().unwrap();
    assert!(!heads.is_empty());
    for head in &*heads {
        let request = head.lines().next().unwrap();
        assert!(request.contains(" http://api.invalid/waInstance"), "{request}");
        // user:p@ss
        assert!(head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwqhnz"), "{head}");
    }
}

/// TLS as `localhost`, by a certificate that is written into the file `ca.pem`.
fn tls(scene: &Scene) -> TlsAcceptor {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(scene.path("ca.pem"), cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.into()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Forwards what comes by TLS to this address, as a gateway in front of the API does; its port.
async fn gateway(tls: TlsAcceptor, behind: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (tls, behind) = (tls.clone(), behind.clone());
            tokio::spawn(async move {
                let mut near = tls.accept(near).await?;
                copy_bidirectional(&mut near, &mut TcpStream::connect(behind).await?).await
            });
        }
    });
    port
}

/// Serves one CONNECT, to this address whatever was asked for, and returns its head.
async fn tunnel(mut near: impl AsyncRead + AsyncWrite + Unpin, to: String, heads: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = near.read_u8().await else { return };
        head.push(byte);
    }
    heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    copy_bidirectional(&mut near, &mut TcpStream::connect(to).await.unwrap()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_verified_with_and_without_a_proxy() {
    let scene = Scene::new().await;
    let tls = tls(&scene);
    let behind = scene.emulator.url().trim_start_matches("http://").to_owned();
    let gateway = format!("localhost:{}", gateway(tls.clone(), behind).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::<String>::new()));
    let (seen, to) = (Arc::clone(&heads), gateway.clone());
    // Takes what begins as TLS does for `https://`.
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (tls, seen, to) = (tls.clone(), Arc::clone(&seen), to.clone());
            tokio::spawn(async move {
                let mut first = [0];
                near.peek(&mut first).await.unwrap();
                match first {
                    [0x16] => tunnel(tls.accept(near).await.unwrap(), to, &seen).await,
                    _ => tunnel(near, to, &seen).await,
                }
            });
        }
    });
    for (number, proxy) in
        ["null".to_owned(), format!("http://u:p@localhost:{port}"), format!("https://u:p@localhost:{port}")]
            .into_iter()
            .enumerate()
    {
        let (instance, proxy) = (format!("{{id: {ID}, api_url: 'https://{gateway}', api_token: {TOKEN}}}"), proxy);
        let config = |ca: &str| {
            format!(
                "instances: [{instance}]\nsink: {{file: {{path: out.jsonl}}}}\napi: {{proxy: {proxy}, ca_file: {ca}}}\n"
            )
        };
        scene.push([number.to_string().as_str()]);
        for ca in ["null", "ca.pem"] {
            fs::write(scene.path("bridge.yaml"), config(ca)).unwrap();
            let mut command = command();
            command.current_dir(&scene.folder).args(["run", "--config", "bridge.yaml"]);
            let bridge = crate::support::Worker::start(&mut command, &scene.path("log"));
            if ca == "null" {
                bridge.wait_for_log("invalid peer certificate");
                assert_eq!(scene.queued(), 1);
            } else {
                scene.drained();
            }
        }
        let heads = std::mem::take(&mut *heads.lock().unwrap());
        assert_eq!(heads.is_empty(), number == 0);
        for head in heads {
            assert!(head.starts_with(&format!("CONNECT {gateway} HTTP/1.1\r\n")), "{head}");
            // u:p
            assert!(head.to_lowercase().contains("proxy-authorization: basic dtpw"), "{head}");
            assert!(!head.contains(TOKEN), "the proxy sees no token");
        }
    }
    assert_eq!(scene.bodies(), ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_around_a_proxy_that_cannot_be_used() {
    let scene = Scene::new().await;
    scene.push(["1"]);
    for proxy in
        ["htp://proxy.corp:3128", "ftp://u:s3cret@proxy.corp", "proxy.corp:3128", "http://127.0.0.1:0", "http://p/x"]
    {
        write_config(&scene, &scene.emulator.url(), proxy);
        for verb in ["validate", "setup", "doctor", "run"] {
            let (code, _, output) = run(command().current_dir(&scene.folder).args([verb, "--config", "bridge.yaml"]));
            assert_eq!(code, 78, "{verb} {proxy}: {output}");
            assert!(output.contains("`proxy`") && !output.contains("s3cret"), "{output}");
        }
    }
    assert_eq!(scene.queued(), 1);
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_of_rabbitmq_is_connected_to() {
    use crate::network::Network;
    use crate::rabbitmq_queues::Names;

    let (scene, names) = (Scene::new().await, Names::new());
    let (_, rest) = names.uri.split_once('@').unwrap();
    let broker = rest.split('/').next().unwrap();
    // On 127.0.0.2 alone, so that localhost is another place.
    let port = std::net::TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
    let _network = Network::start(&format!("127.0.0.2:{port}"), broker).await;
    let there =
        Names { uri: names.uri.replace(broker, &format!("[::ffff:127.0.0.2]:{port}")), name: names.name.clone() };
    scene.push(["1"]);
    let _bridge = scene.start_with("bridge", &there.sink(""));
    scene.drained();
    assert_eq!(names.read(1)[0].body, "1");
}

#[cfg(feature = "amqp")]
#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_a_file_is_held_to_the_same_rules() {
    let scene = Scene::new().await;
    fs::write(scene.path("uri"), "amqp://u:s3cret@host/a/b?cacertfile=s3cret\n").unwrap();
    let mut command = scene.command_with("bridge", "{amqp: {uri_file: uri}}");
    let (code, _, output) = run(&mut command);
    assert!(code == 78 && output.contains("sink.amqp.uri_file") && !output.contains("s3cret"), "{code} {output}");
}
