use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use green_api_bridge::condition::Condition;

use crate::scene::{ID, Scene, TOKEN};
use crate::support::{Worker, command, eventually, run};

/// The README, and after it the pages of `deploy/docs`: paths and texts.
fn documents() -> Vec<(PathBuf, String)> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = fs::read_dir(project.join("deploy/docs")).unwrap();
    let mut pages: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    pages.insert(0, project.join("README.md"));
    pages.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// A page of `deploy/docs`.
fn page(name: &str) -> String {
    documents().into_iter().find(|(path, _)| path.ends_with(name)).expect(name).1
}

/// The fenced blocks of this language.
fn blocks_in(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn blocks(language: &str) -> Vec<String> {
    documents().iter().flat_map(|(_, text)| blocks_in(text, language)).collect()
}

/// The first of a page that contains this.
pub fn example(name: &str, what: &str) -> String {
    blocks_in(&page(name), "yaml").into_iter().find(|block| block.contains(what)).expect(what)
}

/// The command on a page that begins with this.
pub fn command_of(name: &str, program: &str) -> String {
    let lines: Vec<String> = blocks_in(&page(name), "sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.into_iter().find(|line| line.starts_with(program)).expect(program)
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_to_something() {
    let mut count = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{link} in {}", path.display());
            if !wanted.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let leads =
                    headings.map(|line| anchor(line.trim_start_matches(['#', ' ']))).any(|found| found == wanted);
                assert!(leads || text.contains(&format!("id=\"{wanted}\"")), "{link} in {}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} links");
}

/// Where a block is a sink's part, an instance comes before it.
#[cfg(all(feature = "kafka", feature = "amqp"))]
#[test]
fn every_config_on_the_pages_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    let mut count = 0;
    for block in blocks("yaml").iter().filter(|block| block.contains("sink:") && !block.contains("replicas:")) {
        let instance =
            "instances: [{id: 1101000001, api_url: 'https://1101.api.greenapi.com', api_token_file: token}]\n";
        fs::write(&path, if block.contains("instances:") { block.clone() } else { format!("{instance}{block}") })
            .unwrap();
        let (code, _, output) = run(command().args(["validate", "--config"]).arg(&path));
        assert_eq!(code, 0, "{output}{block}");
        count += 1;
    }
    assert!(count >= 5, "{count} configs");
}

/// Every line of every shell block: none may be added without a test here that runs it.
#[test]
fn every_command_is_known_here() {
    let known = [
        // `the_demo_crashes_and_loses_nothing`
        "cargo run --release -- demo",
        // You are running it.
        "tests/run",
        // `the_commands_work_on_the_config_shown`
        "green-api-bridge validate --config bridge.yaml",
        "green-api-bridge setup --config bridge.yaml --apply",
        "green-api-bridge doctor --config bridge.yaml",
        "green-api-bridge run --config bridge.yaml",
        // `the_one_instance_needs_no_file`
        "export GREEN_API_URL=https://1101.api.greenapi.com GREEN_API_ID_INSTANCE=1101000001 GREEN_API_TOKEN_FILE=token",
        "green-api-bridge run --sink kafka://localhost:9092/green-api.notifications",
        // `the_emulator_command_serves`
        "green-api-bridge emulator --listen 127.0.0.1:8080 --instance 1101000001:TOKEN",
        // The Russian page.
        "cargo run --release -- demo",
        "green-api-bridge validate --config bridge.yaml",
        "green-api-bridge setup --config bridge.yaml --apply",
        "green-api-bridge doctor --config bridge.yaml",
        "green-api-bridge run --config bridge.yaml",
        // `types`
        "datamodel-codegen --input notification.types.schema.json --input-file-type jsonschema --output-model-type pydantic_v2.BaseModel --extra-fields allow --formatters builtin --output notification.py",
        "json2ts --input notification.types.schema.json --additionalProperties false --output notification.d.ts",
        "openapi-generator-cli generate --generator-name java --library resttemplate --input-spec notification.openapi.yaml --global-property models,modelDocs=false,modelTests=false --additional-properties modelPackage=notification,useOneOfInterfaces=true,useJakartaEe=true,openApiNullable=false,containerDefaultToNull=true --output java",
        "openapi-generator-cli generate --generator-name go --input-spec notification.openapi.yaml --global-property models,modelDocs=false,modelTests=false,supportingFiles=utils.go --additional-properties packageName=notification,useOneOfDiscriminatorLookup=true,disallowAdditionalPropertiesIfNotPresent=false --output notification",
        // `the_commands_work_on_the_config_shown`
        "green-api-bridge verify --config bridge.yaml",
        "green-api-bridge redrive --config bridge.yaml --from kafka --dry-run",
        "green-api-bridge redrive --config bridge.yaml --from kafka",
    ];
    let commands: Vec<String> =
        blocks("sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(commands, known);
}

/// The config as shown, with the test's own addresses in it.
fn config(scene: &Scene) -> String {
    let shown = blocks("yaml").remove(0);
    let here = shown
        .replace("https://1101.api.greenapi.com", &scene.emulator.url())
        .replace("/run/secrets/green-api-token", &scene.path("token").display().to_string())
        .replace("localhost:9092", &std::env::var("BRIDGE_TEST_KAFKA").unwrap_or_default());
    assert_eq!(here.lines().count(), shown.lines().count());
    assert!(here.lines().count() < 10, "under ten lines");
    here
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_work_on_the_config_shown() {
    crate::support::from_test_run("BRIDGE_TEST_KAFKA");
    let scene = Scene::new().await;
    fs::write(scene.path("token"), TOKEN).unwrap();
    // Names of this run's own, behind what is shown: `verify` reads everything that was ever published.
    let name = uuid::Uuid::new_v4().simple().to_string();
    let names = format!(
        "    topic: {name}\n    ledger_topic: {name}.ledger\n    dead_letter_topic: {name}.dead\n    transactional_id: {name}\n"
    );
    fs::write(scene.path("bridge.yaml"), config(&scene) + &names).unwrap();
    let tell = |arguments: &[&str]| run(command().current_dir(&scene.folder).args(arguments));
    assert_eq!(tell(&["validate", "--config", "bridge.yaml"]).0, 0);
    assert_eq!(tell(&["setup", "--config", "bridge.yaml", "--apply"]).0, 0);
    let (code, _, found) = tell(&["doctor", "--config", "bridge.yaml"]);
    assert_eq!(code, 0, "{found}");
    scene.push(["1"]);
    let mut run = command();
    run.current_dir(&scene.folder).args(["run", "--config", "bridge.yaml"]);
    let bridge = Worker::start(&mut run, &scene.path("log"));
    scene.drained();
    bridge.kill();
    let (code, _, table) = tell(&["verify", "--config", "bridge.yaml"]);
    assert!(code == 0 && table.contains(ID), "{code} {table}");
    for more in [&["--dry-run"][..], &[]] {
        let (code, _, output) = tell(&[&["redrive", "--config", "bridge.yaml", "--from", "kafka"], more].concat());
        assert_eq!(code, 0, "{output}");
    }
    // The other of the two forms, on the same default names: one after the other.
    let mut run =
        scene.command(&format!("kafka://{}/green-api.notifications", std::env::var("BRIDGE_TEST_KAFKA").unwrap()));
    run.env_remove("GREEN_API_TOKEN").env("GREEN_API_TOKEN_FILE", "token");
    scene.push(["2"]);
    let _bridge = Worker::start(&mut run, &scene.path("log"));
    scene.drained();
}

#[cfg(not(feature = "kafka"))]
#[tokio::test]
async fn the_config_shown_is_read() {
    let scene = Scene::new().await;
    fs::write(scene.path("bridge.yaml"), config(&scene)).unwrap();
    let (_, _, output) = run(command().current_dir(&scene.folder).args(["validate", "--config", "bridge.yaml"]));
    assert!(output.contains("lacks the feature `kafka`"), "{output} {TOKEN}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulator_command_serves() {
    let folder = tempfile::tempdir().unwrap();
    let instance = format!("{ID}:TOKEN");
    let mut emulator = command();
    emulator.args(["emulator", "--listen", "127.0.0.1:0", "--instance", &instance]);
    let emulator = Worker::start(&mut emulator, &folder.path().join("log"));
    let output = || emulator.log().split("apiUrl ").nth(1).map(|rest| rest.trim().to_owned());
    eventually("it prints its address", || output().is_some());
    let url = format!("{}/waInstance{ID}/getStateInstance/TOKEN", output().unwrap());
    let answer = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert_eq!(answer, r#"{"stateInstance":"authorized"}"#);
    assert!(!emulator.log().contains("TOKEN"), "{}", emulator.log());
    let (code, _, refused) = run(command().args(["emulator", "--instance", "1:s3cret/canary"]));
    assert!(code == 2 && refused.contains("expected ID:TOKEN") && !refused.contains("canary"), "{code} {refused}");
    let (code, help, _) = run(command().args(["emulator", "--help"]));
    assert!(code == 0 && help.contains("/_emulator/{id}/notifications"), "{help}");
}

#[test]
fn what_the_demo_prints_is_what_is_shown() {
    let (code, stdout, _) = run(command().args(["demo", "--count", "6"]));
    assert_eq!(code, 0);
    for line in blocks("text").remove(0).lines().filter(|line| !line.trim().is_empty()) {
        // The time of receipt differs from run to run.
        let constant = line.split("2026").next().unwrap_or(line);
        assert!(stdout.contains(constant), "{line:?} is not in\n{stdout}");
    }
}

/// The source, as the compiler joins its strings: without tests, and without the README that quotes it.
fn source() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(&path).unwrap();
                *text += code.split("#[cfg(test)]\nmod").next().unwrap_or_default();
            }
        }
    }
    let mut text = String::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    text.split("\\\n").map(str::trim_start).collect()
}

/// The quoted pieces of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_troubleshooting_has_every_condition_warning_and_error_and_no_other() {
    let section = page("troubleshooting.md");
    let codes_of = |table: &str| -> BTreeSet<String> {
        let (_, rows) = section.split_once(&format!("| `{table}` | what to do |")).expect(table);
        let rows = rows.split("\n\n").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        rows.flat_map(|row| quoted(row.split(" | ").next().unwrap())).map(str::to_owned).collect()
    };
    assert_eq!(codes_of("condition"), Condition::ALL.iter().map(ToString::to_string).collect());
    let source = source();
    // What is no warning, but raises a question.
    let mut of_warnings = BTreeSet::from(["delivered_again", "sink_file_moved"].map(str::to_owned));
    for level in ["info!(", "warn!(", "error!("] {
        for call in source.split(level).skip(1) {
            let code = call.trim_start().strip_prefix("event = \"").and_then(|rest| rest.split('"').next());
            let code = code.unwrap_or_else(|| panic!("the first field is the event: {level}{call:.80}"));
            if level != "info!(" && code != "condition_entered" {
                of_warnings.insert(code.to_owned());
            }
        }
    }
    assert_eq!(codes_of("event"), of_warnings);
}
