//! What is given up of security is warned about, once, and nothing else is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::scene::{Scene, TOKEN};
use crate::support::{Worker, command, event};

/// Starts a bridge with this config, until it runs; and what it warned of until then, with the fields that name the place.
fn warnings(scene: &Scene, mode: u32, instances: &str, sink: &str) -> Vec<(String, String)> {
    let path = scene.path("bridge.yaml");
    fs::write(&path, format!("instances:{instances}\nsink: {sink}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let mut run = command();
    run.current_dir(scene.path("")).args(["run", "--config", "bridge.yaml"]).env("A_TOKEN", TOKEN);
    until_it_runs(&mut run, scene)
}

fn until_it_runs(command: &mut Command, scene: &Scene) -> Vec<(String, String)> {
    // Each start adds to it.
    fs::remove_file(scene.path("log")).ok();
    let bridge = Worker::start(command, &scene.path("log"));
    bridge.wait_for_log(&event("running"));
    let log = bridge.log();
    let before = log.lines().take_while(|line| !line.contains(&event("running")));
    let lines = before.map(|line| serde_json::from_str::<Value>(line).expect(line));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = |line: &Value| ["path", "host", "key"].map(|key| text(&line[key])).concat();
    // The sinks here lead nowhere.
    let warnings = lines.filter(|line| line["level"] == "WARN" && line["condition"].is_null());
    warnings.map(|line| (text(&line["event"]), place(&line))).collect()
}

fn given(id: u32, api_url: &str, token: &str) -> String {
    format!("\n  - id: {id}\n    api_url: {api_url}\n    {token}")
}

fn warning(event: &str, place: &str) -> (String, String) {
    (event.to_owned(), place.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_with_a_secret_in_it_that_others_can_read_is_warned_about() {
    let scene = Scene::new().await;
    let given = |token: &str| given(1, &scene.emulator.url(), token);
    fs::write(scene.path("token"), TOKEN).unwrap();
    fs::set_permissions(scene.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
    let secret = [warning("secret_readable_by_others", "bridge.yaml")];
    let inline = given(&format!("api_token: {TOKEN}"));
    assert_eq!(warnings(&scene, 0o644, &inline, "{stdout: {}}"), secret);
    assert_eq!(warnings(&scene, 0o640, &inline, "{stdout: {}}"), []);
    assert_eq!(warnings(&scene, 0o644, &given("api_token: ${A_TOKEN}"), "{stdout: {}}"), []);
    let elsewhere = given("api_token_file: token");
    assert_eq!(warnings(&scene, 0o644, &elsewhere, "{stdout: {}}"), []);
    if cfg!(feature = "amqp") {
        let with = |user: &str| format!("\n  amqp:\n    uri: amqp://{user}127.0.0.1:1/%2f");
        assert_eq!(warnings(&scene, 0o644, &elsewhere, &with("user:hunter2@")), secret);
        assert_eq!(warnings(&scene, 0o644, &elsewhere, &with("user:${A_TOKEN}@")), []);
        assert_eq!(warnings(&scene, 0o644, &elsewhere, &with("")), []);
    }
    if cfg!(feature = "kafka") {
        let with =
            |property: &str| format!("{{kafka: {{bootstrap_servers: ['127.0.0.1:1'], properties: {{{property}}}}}}}");
        assert_eq!(warnings(&scene, 0o644, &elsewhere, &with("sasl.password: hunter2")), secret);
        assert_eq!(warnings(&scene, 0o644, &elsewhere, &with("client.id: hunter2")), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_file_with_a_token_in_it_that_others_can_read_is_warned_about() {
    let scene = Scene::new().await;
    fs::create_dir(scene.path("instances")).unwrap();
    for (name, mode) in [("1", 0o644), ("2", 0o640)] {
        let path = scene.path(&format!("instances/{name}.yaml"));
        fs::write(&path, format!("id: {name}\napi_url: {}\napi_token: {TOKEN}\n", scene.emulator.url())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let found = warnings(&scene, 0o644, " []", "{stdout: {}}\ninstances_dir: instances");
    assert_eq!(found, [warning("secret_readable_by_others", "instances/1.yaml")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_leaves_the_machine_unencrypted_is_warned_about_once_for_each_host() {
    let scene = Scene::new().await;
    // Addresses for documentation: nobody is there.
    let given = |id: u32, host: &str| given(id, &format!("http://{host}"), "api_token: ${A_TOKEN}");
    let instances = [given(1, "192.0.2.1"), given(2, "192.0.2.1"), given(3, "192.0.2.2:8080"), given(4, "127.0.0.1:1")];
    let found = warnings(&scene, 0o600, &instances.concat(), "{stdout: {}}");
    let plain = |host| warning("unencrypted_token", host);
    assert_eq!(found, [plain("192.0.2.1"), plain("192.0.2.2")]);
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn switching_off_that_certificates_are_verified_is_warned_about() {
    let scene = Scene::new().await;
    let instance = given(1, &scene.emulator.url(), "api_token: ${A_TOKEN}");
    let with = |property: &str| {
        let properties = format!("security.protocol: SSL, {property}");
        let sink = format!("{{kafka: {{bootstrap_servers: ['127.0.0.1:1'], properties: {{{properties}}}}}}}");
        warnings(&scene, 0o600, &instance, &sink)
    };
    for (property, key) in [
        ("enable.ssl.certificate.verification: false", "enable.ssl.certificate.verification"),
        ("ssl.endpoint.identification.algorithm: none", "ssl.endpoint.identification.algorithm"),
    ] {
        assert_eq!(with(property), [warning("unverified_certificates", key)]);
    }
    assert_eq!(with("enable.ssl.certificate.verification: true"), []);
    assert_eq!(with("ssl.endpoint.identification.algorithm: https"), []);
}

#[cfg(feature = "amqp")]
#[tokio::test(flavor = "multi_thread")]
async fn a_password_on_the_command_line_is_warned_about() {
    let scene = Scene::new().await;
    let start = |command: &mut Command| until_it_runs(command, &scene);
    let found = start(&mut scene.command("amqp://user:hunter2@127.0.0.1:1/%2f"));
    assert_eq!(found, [warning("password_on_command_line", "")]);
    assert_eq!(start(&mut scene.command("amqp://127.0.0.1:1/%2f")), []);
    let mut from_environment = command();
    from_environment.arg("run").env("BRIDGE_SINK", "amqp://user:hunter2@127.0.0.1:1/%2f");
    from_environment.env("GREEN_API_URL", scene.emulator.url()).env("GREEN_API_ID_INSTANCE", "1");
    assert_eq!(start(from_environment.env("GREEN_API_TOKEN", TOKEN)), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_memory_is_never_dumped() {
    let scene = Scene::new().await;
    let bridge = scene.start_into_file();
    bridge.wait_for_log(&event("running"));
    assert_eq!(bridge.core_limit(), "0 0 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_certificates_of_the_system_plain_http_works() {
    let scene = Scene::new().await;
    let mut command = scene.command("file:out.jsonl");
    command.env("SSL_CERT_FILE", "/nowhere/file").env("SSL_CERT_DIR", "/nowhere/folder");
    let bridge = Worker::start(&mut command, &scene.path("log"));
    scene.push(["1"]);
    scene.drained();
    assert_eq!(bridge.log().matches(&event("no_ca_certificates")).count(), 1, "{}", bridge.log());
}
