//! What lies in `deploy/` and the compose file: read as who uses it would.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use green_api_bridge::emulator;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{ID, Scene, TOKEN};
use crate::support::{Worker, command, run};

/// A file of the project.
pub fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

pub fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&file(path)).expect(path)
}

#[test]
fn the_image_is_made_of_files_that_exist_and_runs_as_nobody_without_a_shell() {
    let (dockerfile, ignored) = (file("deploy/Dockerfile"), file(".dockerignore"));
    let mut sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignored.lines().any(|line| line == "*"), "nothing else is sent");
    let mut copied = Vec::new();
    for line in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"))
    {
        let words: Vec<&str> = line.split(' ').collect();
        copied.extend_from_slice(&words[..words.len() - 1]);
    }
    copied.sort_unstable();
    sent.sort_unstable();
    assert_eq!(copied, sent, "what is copied is what is sent");
    for path in copied {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
    }
    let (_, last) = dockerfile.rsplit_once("\nFROM ").expect("stages");
    assert!(last.starts_with("gcr.io/distroless/cc-debian13:nonroot\n"), "{last}");
    assert!(!last.contains("\nRUN "), "there is no shell");
    let exec_form = |name: &str| -> Vec<String> {
        let line = last.lines().find(|line| line.starts_with(name)).expect(name);
        serde_json::from_str(&line[line.find('[').expect("the exec form")..]).expect(line)
    };
    assert_eq!(exec_form("HEALTHCHECK"), ["/usr/local/bin/green-api-bridge", "health"]);
    assert_eq!(exec_form("ENTRYPOINT"), ["/usr/local/bin/green-api-bridge"]);
    assert_eq!(exec_form("CMD")[0], "run");
}

/// The dependencies are built around empty programs, in which every target of Cargo.toml has to be found.
#[test]
fn the_image_s_layer_of_dependencies_is_a_package() {
    let dockerfile = file("deploy/Dockerfile");
    let (_, script) = dockerfile.split_once("RUN mkdir").expect("the layer");
    let (script, _) = script.split_once("cargo build").expect("the layer");
    let folder = tempfile::tempdir().unwrap();
    for name in ["Cargo.toml", "Cargo.lock"] {
        fs::write(folder.path().join(name), file(name)).unwrap();
    }
    // What looks for every target as a build does, and builds nothing.
    let script = format!("mkdir{script} cargo fetch --locked --offline --target $(rustc --print host-tuple)");
    let (code, _, refused) = run(Command::new("sh").current_dir(&folder).args(["-c", &script]));
    assert_eq!(code, 0, "{refused}");
}

#[test]
fn the_unit_goes_by_the_exit_codes_and_has_a_folder_of_its_own() {
    let unit = file("deploy/systemd/green-api-bridge.service");
    for line in
        ["Type=notify", "RestartPreventExitStatus=2 78 79", "StateDirectory=green-api-bridge", "NoNewPrivileges=yes"]
    {
        assert!(unit.lines().any(|given| given == line), "{line}");
    }
    let mut section = false;
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        section |= line.starts_with('[') && line.ends_with(']');
        assert!(section && (line.starts_with('[') || line.contains('=')), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified_that_it_runs_lives_and_stops() {
    let scene = Scene::new().await;
    let socket = UnixDatagram::bind(scene.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let output = || {
        let mut text = [0; 100];
        let length = socket.recv(&mut text).expect("a message to systemd");
        String::from_utf8(text[..length].to_vec()).unwrap().trim().to_owned()
    };
    let mut bridge = scene.command("file:out.jsonl");
    // In microseconds. Half of it passes between two beats; the other half is for a machine that is busy.
    let watchdog = Duration::from_secs(6);
    bridge.env("NOTIFY_SOCKET", scene.path("notify")).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    let bridge = Worker::start(&mut bridge, &scene.path("log"));
    assert_eq!(output(), "READY=1");
    assert_eq!(output(), "WATCHDOG=1");
    let beaten = std::time::Instant::now();
    assert_eq!(output(), "WATCHDOG=1");
    assert!(beaten.elapsed() < watchdog, "in time for the watchdog: {:?}", beaten.elapsed());
    let (status, _) = bridge.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    let mut last = output();
    while last == "WATCHDOG=1" {
        last = output();
    }
    assert_eq!(last, "STOPPING=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_systemd_s_credentials_is_found() {
    let scene = Scene::new().await;
    let path = scene.path("bridge.yaml");
    let unit = file("deploy/systemd/green-api-bridge.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("#   ")).expect("the line for the config");
    let credential = unit.lines().find_map(|line| line.strip_prefix("LoadCredential=")?.split(':').next());
    let instance = format!("  - id: {ID}\n    api_url: {}\n    {line}\n", scene.emulator.url());
    fs::write(&path, format!("instances:\n{instance}sink: {{stdout: {{}}}}\n")).unwrap();
    fs::write(scene.path(credential.expect("a credential")), TOKEN).unwrap();
    // A command that shows the token to the queue.
    let mut setup = command();
    setup.args(["setup", "--config"]).arg(&path).env("CREDENTIALS_DIRECTORY", scene.folder.path());
    let (code, _, output) = run(&mut setup);
    assert_eq!(code, 0, "{output}");
    let (code, _, output) = run(setup.env_remove("CREDENTIALS_DIRECTORY"));
    assert_eq!(code, 78, "{output}");
}

#[test]
fn the_kubernetes_manifest_fits_together() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&file("deploy/kubernetes.yaml")).expect("YAML");
    let of = |kind: &str| documents.iter().find(|document| document["kind"] == kind).expect(kind);
    let kinds: Vec<&str> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["Secret", "ConfigMap", "StatefulSet", "PodDisruptionBudget", "Service", "NetworkPolicy"],
        "no account, role, or lease"
    );
    assert!(documents.iter().all(|document| document["metadata"]["name"] == "green-api-bridge"));

    let set = &of("StatefulSet")["spec"];
    assert_eq!((&set["replicas"], &set["podManagementPolicy"]), (&3.into(), &"Parallel".into()));
    assert_eq!((&set["updateStrategy"]["type"], &set["minReadySeconds"]), (&"RollingUpdate".into(), &10.into()));
    assert_eq!(of("PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    let (labels, pod) = (&set["template"]["metadata"]["labels"], &set["template"]["spec"]);
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!((&spread["topologyKey"], &spread["maxSkew"]), (&"kubernetes.io/hostname".into(), &1.into()));
    for selector in [
        &set["selector"]["matchLabels"],
        &spread["labelSelector"]["matchLabels"],
        &of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        &of("Service")["spec"]["selector"],
        &of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    // The service that a set has to name leads to each of its pods.
    let service = of("Service");
    assert_eq!((&service["metadata"]["name"], &service["spec"]["clusterIP"]), (&set["serviceName"], &"None".into()));
    assert_eq!(
        (&pod["automountServiceAccountToken"], &pod["terminationGracePeriodSeconds"]),
        (&false.into(), &60.into())
    );
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let bridge = &pod["containers"][0];
    let security = &bridge["securityContext"];
    assert_eq!(
        (&security["readOnlyRootFilesystem"], &security["capabilities"]["drop"][0]),
        (&true.into(), &"ALL".into())
    );
    assert!(bridge["env"].is_null(), "no replica is given an identity");
    assert_eq!(bridge["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(bridge["readinessProbe"]["httpGet"]["path"], "/readyz");

    // The config, its secret where the pod has it, and the admin port where the probes ask.
    let config = of("ConfigMap")["data"]["bridge.yaml"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mounts = bridge["volumeMounts"].as_array().unwrap();
    // Each is there once: of the pod, or of each pod its own.
    let all = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]);
    let claims = set["volumeClaimTemplates"].as_array().unwrap().iter().map(|claim| &claim["metadata"]["name"]);
    let claims: Vec<&Value> = claims.collect();
    assert_eq!(claims, ["state"]);
    assert_eq!(mounts.iter().map(|mount| &mount["name"]).collect::<Vec<_>>(), all.chain(claims).collect::<Vec<_>>());
    let secrets = mounts.iter().find(|mount| mount["name"] == "secrets").unwrap()["mountPath"].as_str().unwrap();
    for (name, value) in of("Secret")["stringData"].as_object().unwrap() {
        fs::write(folder.path().join(name), value.as_str().unwrap()).unwrap();
        assert!(config.contains(&format!("_file: {secrets}/{name}\n")), "{config}");
    }
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, config.replace(secrets, folder.path().to_str().unwrap())).unwrap();
    let (code, _, output) = run(command().args(["validate", "--config"]).arg(&path));
    assert_eq!(code, 0, "{output}");
    assert!(config.contains("\nshards: 12\n"), "replicas share: {config}");
    let port = &bridge["ports"][0]["containerPort"];
    assert!(config.contains(&format!("0.0.0.0:{port}")), "{config}");
    assert_eq!(port, &of("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"]);
    let arguments = bridge["args"].as_array().unwrap();
    let config_mount = mounts.iter().find(|mount| mount["name"] == "config").unwrap()["mountPath"].as_str().unwrap();
    assert_eq!(arguments[2], format!("{config_mount}/bridge.yaml"));
}

#[test]
fn the_chart_is_of_this_version_and_has_the_same_alerts() {
    let chart = yaml("deploy/helm/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&version.into(), &version.into()));
    assert_eq!(file("deploy/helm/alerts.yaml"), file("deploy/prometheus/alerts.yaml"), "copy it");
    // Its config, but for what only the operator knows.
    let mut config = yaml("deploy/helm/values.yaml")["config"].take();
    config["sink"] = serde_json::json!({"kafka": {}});
    config["instances"] = serde_json::json!([{"id": 1, "api_url": "https://1101.api.greenapi.com", "api_token": "x"}]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, config.to_string()).unwrap();
    let (code, _, output) = run(command().args(["validate", "--config"]).arg(&path));
    assert_eq!(code, 0, "{output}");
}

#[test]
fn every_kind_of_body_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(&file("deploy/asyncapi/notification.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for body in emulator::notifications() {
        let mut value: Value = serde_json::from_str(body).unwrap();
        if let Some(error) = validator.iter_errors(&value).next() {
            panic!("{error} in {body}");
        }
        // Of every kind it asks for something.
        value.as_object_mut().unwrap().remove("instanceData");
        assert!(!validator.is_valid(&value), "{value}");
    }
    // What nobody knows yet is published all the same.
    for open in [r#"{"typeWebhook":"tomorrow"}"#, "null", "[1]"] {
        assert!(validator.is_valid(&serde_json::from_str(open).unwrap()), "{open}");
    }
}

#[test]
fn the_compose_file_holds_together() {
    let compose = yaml("docker-compose.yml");
    let (services, volumes) = (compose["services"].as_object().unwrap(), compose["volumes"].as_object().unwrap());
    let profiles_of = |name: &str| services[name]["profiles"].as_array().unwrap();
    assert!(file(".env").lines().any(|line| line == "COMPOSE_PROFILES=kafka"), "something starts without a profile");
    let built: Vec<&String> =
        services.iter().filter(|(_, service)| service.get("build").is_some()).map(|(name, _)| name).collect();
    assert_eq!(built, ["emulator"], "two builders of one tag race");
    for (name, service) in services {
        for profile in profiles_of(name) {
            assert!(["kafka", "rabbitmq", "observe"].iter().any(|known| profile == known), "{name}");
        }
        let image = service["image"].as_str().unwrap();
        match image.rsplit_once(':') {
            Some((_, tag)) => assert!(tag.matches('.').count() == 2, "{image} is not pinned"),
            None => assert_eq!(image, services["emulator"]["image"], "{name}"),
        }
        // Only where it runs.
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{port}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists();
            assert!(if source.starts_with("./") { exists } else { volumes.contains_key(source) }, "{volume}");
        }
        for (other, wanted) in service["depends_on"].as_object().into_iter().flatten() {
            assert_eq!(wanted["condition"], "service_healthy", "{name} waits for {other}");
            assert!(services[other].get("healthcheck").is_some(), "{name} waits for the health of {other}");
            for profile in profiles_of(name) {
                assert!(profiles_of(other).contains(profile), "{name} and {other} start together");
            }
        }
    }
    // Prometheus asks the bridges by these names and the port they listen on.
    let prometheus = yaml("deploy/prometheus/prometheus.yml");
    let targets = &prometheus["scrape_configs"][0]["dns_sd_configs"][0];
    let names = targets["names"].as_array().unwrap().iter().filter_map(Value::as_str);
    let bridges = services.keys().map(String::as_str).filter(|name| name.starts_with("bridge-"));
    assert_eq!(names.clone().collect::<Vec<_>>(), bridges.collect::<Vec<_>>());
    for name in names {
        let listens = &services[name]["environment"]["BRIDGE_ADMIN_LISTEN"];
        assert_eq!(listens, &format!("0.0.0.0:{}", targets["port"]));
    }
    // Each replica has its port and its volume, and they share a config that `validate` takes.
    for profile in ["kafka", "rabbitmq"] {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/compose/{profile}.yaml"));
        let (code, _, output) = run(command().args(["validate", "--config"]).arg(config).env("GREEN_API_TOKEN", "x"));
        assert_eq!(code, 0, "{output}");
        for number in 1..=3 {
            let bridge = &services[&format!("bridge-{profile}-{number}")];
            let volume = format!("bridge-{profile}-{number}:/var/lib/green-api-bridge");
            assert_eq!(bridge["volumes"][1].as_str(), Some(volume.as_str()));
        }
    }
}
