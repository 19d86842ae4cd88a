use std::fs;

use crate::support::{command, run};

fn validate(config: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, config).unwrap();
    let (code, stdout, stderr) = run(command().arg("validate").arg("--config").arg(&path));
    assert_eq!(stdout, "", "stdout carries data only");
    (code, stderr.replace(&path.display().to_string(), "bridge.yaml"))
}

const VALID: &str = "instances:\n  - id: 1101000001\n    api_url: https://1101.api.greenapi.com\n    \
                     api_token: secret\nsink:\n  file: {path: a.jsonl}\n";

#[test]
fn a_valid_config_exits_with_0() {
    assert_eq!(validate(VALID), (0, "the configuration is valid: 1 instance(s)\n".into()));
}

#[test]
fn mistakes_have_line_column_and_the_nearest_right_key_and_exit_with_78() {
    let unknown_key = format!("{VALID}api:\n  recieve_timeout_secs: 20\n");
    let output = "bridge.yaml:8:3: unknown key `recieve_timeout_secs`: did you mean `receive_timeout_secs`?\n";
    assert_eq!(validate(&unknown_key), (78, output.into()));
    let wrong_type = format!("{VALID}api:\n  receive_timeout_secs: soon\n");
    let output = "bridge.yaml:8:25: `receive_timeout_secs`: wrong type: expected a whole number\n";
    assert_eq!(validate(&wrong_type), (78, output.into()));
    let bad_values = format!("{VALID}api:\n  receive_timeout_secs: 90\ndead_letter_dir: \"a\\r\"\n");
    let output = "bridge.yaml:8:25: `receive_timeout_secs` must be 5 to 60, not 90\nbridge.yaml:9:18: `dead_letter_dir` \
                contains a control character, perhaps a carriage return at its end\n";
    assert_eq!(validate(&bad_values), (78, output.into()));
    let doubtful = format!("{VALID}api:\n  webhooks: [incomingWebhok]\n");
    let output = "warning: bridge.yaml:8:14: unknown kind `incomingWebhok`: did you mean `incomingWebhook`?\n\
                the configuration is valid: 1 instance(s)\n";
    assert_eq!(validate(&doubtful), (0, output.into()));
    let output = "bridge.yaml:7:28: `dead_letter_dir_limit_mib` must be 1 to 1048576, not 0\n";
    assert_eq!(validate(&format!("{VALID}dead_letter_dir_limit_mib: 0\n")), (78, output.into()));
    let run = run(command().args(["run", "--config", "/nowhere/bridge.yaml"]));
    assert_eq!((run.0, run.1.as_str()), (78, ""));
    assert!(run.2.contains("/nowhere/bridge.yaml"), "{}", run.2);
}

#[test]
fn a_build_says_which_feature_a_config_needs() {
    for (sink, there) in [("kafka", cfg!(feature = "kafka")), ("amqp", cfg!(feature = "amqp"))] {
        let (code, output) = validate(&VALID.replace("file: {path: a.jsonl}", &format!("{sink}: {{}}")));
        assert_eq!(code, if there { 0 } else { 78 }, "{output}");
        assert_eq!(output.contains(&format!("lacks the feature `{sink}`")), !there, "{output}");
    }
}

#[test]
fn without_a_file_the_environment_names_one_instance() {
    let environment = |variables: &[(&str, &str)], sink: &str| {
        run(command().envs(variables.iter().copied()).args(["validate", "--sink", sink]))
    };
    let whole = [("GREEN_API_URL", "https://host"), ("GREEN_API_ID_INSTANCE", "1101"), ("GREEN_API_TOKEN", "s3cret")];
    assert_eq!(environment(&whole, "stdout:").0, 0);
    let (code, _, output) = environment(&whole, "file:a.jsonl\r");
    assert!(code == 2 && output.contains("it contains a control character"), "{code} {output}");
    let (code, _, output) = environment(&whole[1..], "stdout:");
    assert!(code == 78 && output.contains("GREEN_API_URL"), "{code} {output}");
    let (code, _, output) = environment(&whole[..2], "stdout:");
    assert!(code == 78 && output.contains("GREEN_API_TOKEN_FILE"), "{code} {output}");
    let pasted = [("GREEN_API_URL", "https://host/waInstance1/x/s3cret"), whole[1], whole[2]];
    let (code, _, output) = environment(&pasted, "stdout:");
    assert!(code == 78 && output.contains("GREEN_API_URL must look like") && !output.contains("s3cret"), "{output}");
    let (code, _, output) = environment(&whole, "redis://u:s3cret@h");
    assert!(code == 2 && output.contains("kafka://") && !output.contains("s3cret"), "{code} {output}");
    let by_variable = run(command().envs(whole).env("BRIDGE_SINK", "stdout:").arg("validate"));
    assert_eq!(by_variable.0, 0);
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in
        [&["run"][..], &["runn"], &["run", "--confg", "x"], &["run", "--config", "x", "--sink", "stdout:"], &[]]
    {
        let (code, stdout, stderr) = run(command().args(arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_secret_that_cannot_be_read_at_the_start_exits_with_78() {
    let config = VALID.replace("api_token: secret", "api_token_file: /nowhere/token");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, config).unwrap();
    let (code, _, stderr) = run(command().current_dir(&folder).args(["run", "--config"]).arg(&path));
    assert_eq!(code, 78, "{stderr}");
    assert!(stderr.contains("instance 1101000001: `api_token_file` cannot be used: /nowhere/token"), "{stderr}");
}
