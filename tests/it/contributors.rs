//! The documents for contributors, and what GitHub runs for them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(project().join(path)).expect(path)
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).expect(path)
}

/// The commands of a workflow, and its jobs.
fn workflow(name: &str) -> (Value, Vec<String>) {
    let workflow = yaml(&format!(".github/workflows/{name}.yml"));
    let steps = workflow["jobs"].as_object().unwrap().values().flat_map(|job| job["steps"].as_array().unwrap());
    let mut commands = Vec::new();
    for step in steps {
        commands.extend(step["run"].as_str().map(str::to_owned));
        let Some(action) = step["uses"].as_str() else { continue };
        let (_, commit) = action.split_once('@').expect(action);
        assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{action}: no commit");
    }
    (workflow, commands)
}

#[test]
fn a_tag_is_released_by_the_script_that_anyone_runs() {
    let (workflow, commands) = workflow("release");
    assert_eq!(workflow["on"]["push"]["tags"][0], "v*");
    assert!(commands.iter().any(|command| command == "deploy/release"), "{commands:?}");
}

#[test]
fn the_workflow_runs_what_everyone_runs_with_pinned_actions() {
    let (workflow, commands) = workflow("ci");
    let jobs = workflow["jobs"].as_object().unwrap().keys();
    assert!(commands.iter().any(|command| command == ".ci/run"), "{commands:?}");
    assert!(text(".ci/run").ends_with("/../tests/run\" \"$@\"\n"));
    let needed: Vec<&str> =
        workflow["jobs"]["all"]["needs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(jobs.into_iter().all(|name| name == "all" || needed.contains(&name.as_str())), "{needed:?}");
}

#[test]
fn the_oldest_supported_toolchain_is_the_one_that_everything_is_built_with() {
    let manifest = text("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"')).unwrap();
    let image = format!("rust:{version}.0-");
    assert!(text("deploy/Dockerfile").contains(&format!("FROM {image}")), "{image}");
    let workflow = yaml(".github/workflows/ci.yml");
    assert!(workflow["jobs"]["tests"]["container"]["image"].as_str().unwrap().starts_with(&image), "{image}");
}

#[test]
fn the_forms_and_the_updates_are_yaml_and_name_folders_that_exist() {
    for form in ["bug", "feature"] {
        let form = yaml(&format!(".github/ISSUE_TEMPLATE/{form}.yml"));
        assert!(form["body"].as_array().is_some_and(|fields| !fields.is_empty()), "{form}");
    }
    assert!(yaml(".github/ISSUE_TEMPLATE/config.yml").is_object());
    let updates = yaml(".github/dependabot.yml");
    for update in updates["updates"].as_array().unwrap() {
        let folders = update["directories"].as_array().cloned().unwrap_or_else(|| vec![update["directory"].clone()]);
        for folder in folders {
            let folder = project().join(folder.as_str().unwrap().trim_start_matches('/'));
            assert!(folder.is_dir(), "{}", folder.display());
        }
    }
}

#[cfg(feature = "broker-tests")]
#[test]
fn github_s_schemas_take_the_workflow_the_forms_and_the_updates() {
    let files = [
        ("github-workflows", ".github/workflows/ci.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/feature.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("dependabot", ".github/dependabot.yml"),
    ];
    for (schema, path) in files {
        let mut check = std::process::Command::new(crate::support::from_test_run("BRIDGE_TEST_PYTHON"));
        check.args(["-m", "check_jsonschema", "--builtin-schema", &format!("vendor.{schema}")]);
        let (code, found, failed) = crate::support::run(check.arg(project().join(path)));
        assert_eq!(code, 0, "{found}{failed}");
    }
}

/// A file or folder of the project that is named in backticks.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let top =
        ["src/", "tests/", "deploy/", "benches/", "examples/", "fuzz/", ".github/", ".ci/", "Cargo.", "CHANGELOG"];
    quoted.filter(move |name| top.iter().any(|top| name.starts_with(top)) && !name.contains([' ', '*', '{']))
}

#[test]
fn every_file_that_contributors_are_sent_to_exists() {
    for path in [".github/CONTRIBUTING.md", ".github/SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md"] {
        let text = text(path);
        for name in named(&text) {
            assert!(project().join(name).exists(), "{path}: {name}");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target: PathBuf = project().join(path).with_file_name(link);
            assert!(link.starts_with("https://") || target.exists(), "{path}: {link}");
        }
    }
    // The map names files below its own folder.
    let map = text("src/ARCHITECTURE.md");
    for name in map.split('`').skip(1).step_by(2).filter(|name| name.rsplit('.').next() == Some("rs")) {
        let places = [project().join("src").join(name), project().join(name)];
        assert!(places.iter().any(|place| place.exists()), "ARCHITECTURE.md: {name}");
    }
    assert!(text("README.md").contains("(.github/CONTRIBUTING.md)"));
}
