use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::fleet::{start, stored, watch, write_config, write_instance};
use crate::scene::{ID, Scene, TOKEN, numbered};
use crate::support::{ENDS_WITHIN, Worker, command, event, eventually};

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// By a rename, as a file should be replaced.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    let new = path.with_extension("new");
    make(&new);
    fs::rename(new, path).unwrap();
}

fn given(scene: &Scene, id: &str, token: &str) -> String {
    format!("{{id: {id}, api_url: '{}', {token}}}", scene.emulator.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_any_file_is_reported_at_the_start_and_nobody_waits_for_it() {
    let scene = Scene::new().await;
    make_pipe(&scene.path("fifo"));
    fs::write(scene.path("token"), TOKEN).unwrap();
    fs::write(scene.path("empty.p12"), "").unwrap();
    let mut configs = vec![
        ("api_token_file: fifo", "", "file: {path: out.jsonl}"),
        ("api_token_file: token", "api: {ca_file: fifo}", "file: {path: out.jsonl}"),
        ("api_token_file: token", "instances_dir: instances", "file: {path: out.jsonl}"),
    ];
    if cfg!(feature = "kafka") {
        configs.push(("api_token_file: token", "", "kafka: {properties_files: {sasl.password: fifo}}"));
        for name in ["ca", "certificate", "key", "keystore", "crl"] {
            let sink = format!("kafka: {{properties: {{security.protocol: SSL, ssl.{name}.location: fifo}}}}");
            configs.push(("api_token_file: token", "", sink.leak()));
        }
    }
    if cfg!(feature = "amqp") {
        configs.extend([
            ("api_token_file: token", "", "amqp: {uri_file: fifo}"),
            ("api_token_file: token", "", "amqp: {ca_file: fifo}"),
            ("api_token_file: token", "", "amqp: {client_identity_file: fifo}"),
            (
                "api_token_file: token",
                "",
                "amqp: {client_identity_file: empty.p12, client_identity_password_file: fifo}",
            ),
        ]);
    }
    fs::create_dir(scene.path("instances")).unwrap();
    make_pipe(&scene.path("instances/fifo.yaml"));
    for (token, more, sink) in configs {
        let config = format!("instances: [{}]\n{more}\nsink: {{{sink}}}\n", given(&scene, ID, token));
        fs::write(scene.path("bridge.yaml"), config).unwrap();
        fs::remove_file(scene.path("log")).ok();
        let mut bridge = start(&scene);
        eventually(&format!("the end of {token} {more} {sink}"), || bridge.has_ended());
        let output = bridge.log();
        assert!(output.contains("fifo") && output.contains("not a regular file"), "{token} {more} {sink}: {output}");
        assert_eq!(bridge.ended().code(), Some(78));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_becomes_a_pipe_stops_its_instance_alone() {
    let scene = Scene::fleet(2, &numbered(1)).await;
    let (one, other) = (scene.instances[0].clone(), scene.instances[1].clone());
    fs::write(scene.path("token"), TOKEN).unwrap();
    let with_file = given(&scene, &one, "api_token_file: token");
    write_config(&scene, &format!("{with_file}, {}", given(&scene, &other, &format!("api_token: {TOKEN}"))));
    fs::create_dir(scene.path("instances")).unwrap();
    let mut run = command();
    // Whoever blocks it blocks everything.
    run.current_dir(&scene.folder).args(["run", "--config", "bridge.yaml"]).env("TOKIO_WORKER_THREADS", "1");
    let bridge = Worker::start(&mut run, &scene.path("log"));
    scene.drained();
    replace(&scene.path("token"), make_pipe);
    scene.emulator.set_token(&one, "another");
    bridge.wait_for_log(&event("token_unreadable"));
    bridge.wait_for_log(&event("change_not_applied"));
    scene.emulator.push(&other, "2");
    stored(&scene, &other, 2);
    replace(&scene.path("token"), |path| fs::write(path, "another").unwrap());
    scene.emulator.push(&one, "2");
    stored(&scene, &one, 2);
    replace(&scene.path("token"), make_pipe);
    scene.emulator.set_token(&one, "a third");
    eventually("it is refused again", || bridge.log().matches(&event("token_unreadable")).count() > 1);
    let (status, took) = bridge.stop(Signal::SIGTERM);
    assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_in_the_folder_of_instances_disturbs_no_other() {
    let scene = Scene::fleet(2, &numbered(1)).await;
    let (one, other) = (scene.instances[0].clone(), scene.instances[1].clone());
    fs::create_dir(scene.path("instances")).unwrap();
    // As Emacs locks b.yaml.
    symlink("somebody@somewhere.1234:1", scene.path("instances/.#b.yaml")).unwrap();
    write_config(&scene, "");
    write_instance(&scene, "one.yaml", &one, &format!("api_token: {TOKEN}"));
    let bridge = start(&scene);
    stored(&scene, &one, 1);
    make_pipe(&scene.path("instances/fifo.yaml"));
    bridge.wait_for_log("fifo.yaml: cannot be read: it is not a regular file");
    symlink("/dev/zero", scene.path("instances/zero.yaml")).unwrap();
    bridge.wait_for_log("zero.yaml: cannot be read: it is not a regular file");
    fs::create_dir(scene.path("instances/folder.yaml")).unwrap();
    bridge.wait_for_log("folder.yaml: cannot be read: it is not a regular file");
    write_instance(&scene, "two.yaml", &other, &format!("api_token: {TOKEN}"));
    stored(&scene, &other, 1);
    let log = bridge.log();
    assert!(log.matches("not a regular file").count() == 3 && !log.contains(".#b"), "each once: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_waits_for_its_token_file_to_come() {
    let scene = Scene::fleet(1, &numbered(1)).await;
    let bridge = watch(&scene);
    bridge.wait_for_log(&event("no_instances"));
    write_instance(&scene, "one.yaml", &scene.instances[0], "api_token_file: token");
    bridge.wait_for_log(&event("invalid_instance_file"));
    fs::write(scene.path("token"), TOKEN).unwrap();
    scene.drained();
    assert_eq!(bridge.log().matches(&event("invalid_instance_file")).count(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_others_can_read_is_reported_once() {
    let scene = Scene::fleet(2, &numbered(1)).await;
    let write = |name: &str, mode| {
        replace(&scene.path(name), |path| {
            fs::write(path, TOKEN).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        });
    };
    write("open", 0o644);
    write("closed", 0o640);
    fs::create_dir(scene.path("instances")).unwrap();
    let one = given(&scene, &scene.instances[0], "api_token_file: open");
    let other = given(&scene, &scene.instances[1], "api_token_file: closed");
    write_config(&scene, &format!("{one}, {other}"));
    let bridge = start(&scene);
    scene.drained();
    write("open", 0o644);
    bridge.wait_for_log(&event("instance_restarted"));
    let log = bridge.log();
    let output: Vec<&str> = log.lines().filter(|line| line.contains(&event("secret_readable_by_others"))).collect();
    assert!(output.len() == 1 && output[0].contains(r#""path":"open""#), "{log}");
}

#[cfg(feature = "fault-hooks")]
mod hanging {
    use super::*;

    /// What is asked about the file hangs until the pipe is [`opened`](let_answer).
    fn hang(scene: &Scene, name: &str) {
        make_pipe(&scene.path(&format!("{name}.hangs")));
    }

    fn let_answer(scene: &Scene, name: &str) {
        let pipe = scene.path(&format!("{name}.hangs"));
        // By another name first: what asks from now on is answered.
        let gone = pipe.with_extension("gone");
        fs::rename(pipe, &gone).unwrap();
        fs::File::options().write(true).open(gone).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_hangs_stops_what_it_is_for_and_nothing_else() {
        let scene = Scene::fleet(4, &numbered(1)).await;
        let ids = scene.instances.clone();
        let token = format!("api_token: {TOKEN}");
        fs::write(scene.path("token"), TOKEN).unwrap();
        fs::create_dir(scene.path("instances")).unwrap();
        hang(&scene, "token");
        let fixed = [given(&scene, &ids[0], "api_token_file: token"), given(&scene, &ids[1], &token)];
        write_config(&scene, &fixed.join(", "));
        let bridge = start(&scene);
        stored(&scene, &ids[1], 1);
        hang(&scene, "instances/hung.yaml");
        write_instance(&scene, "hung.yaml", &ids[2], &token);
        eventually("both are reported", || bridge.log().matches(&event("file_unresponsive")).count() == 2);
        write_instance(&scene, "other.yaml", &ids[3], &token);
        stored(&scene, &ids[3], 1);
        assert_eq!((scene.emulator.queued(&ids[0]), scene.emulator.queued(&ids[2])), (1, 1));
        let_answer(&scene, "token");
        stored(&scene, &ids[0], 1);
        let_answer(&scene, "instances/hung.yaml");
        stored(&scene, &ids[2], 1);
        let log = bridge.log();
        assert_eq!(log.matches(&event("file_unresponsive")).count(), 2, "each once: {log}");
        hang(&scene, "token");
        scene.emulator.set_token(&ids[0], "another");
        eventually("it is reported", || bridge.log().matches(&event("file_unresponsive")).count() == 3);
        let (status, took) = bridge.stop(Signal::SIGTERM);
        assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_that_waits_for_a_file_can_be_stopped() {
        let scene = Scene::new().await;
        fs::write(scene.path("token"), TOKEN).unwrap();
        hang(&scene, "token");
        let mut run = scene.command("file:out.jsonl");
        run.env_remove("GREEN_API_TOKEN").env("GREEN_API_TOKEN_FILE", "token");
        let bridge = Worker::start(&mut run, &scene.path("log"));
        eventually("it reads the file", || bridge.has_thread("files"));
        let (status, took) = bridge.stop(Signal::SIGTERM);
        assert!(status.success() && took < ENDS_WITHIN, "{status:?} {took:?}");
    }
}
