use super::*;

#[tokio::test]
async fn dropping_the_emulator_ends_its_connections_and_frees_its_port() {
    let session = Session::start().await;
    let address = session.emulator.address();
    let mut poll = session.raw("GET", &receive_path()).await;
    assert_silent(&mut poll).await;
    drop(session);
    let (answer, _) = rest_of(poll).await;
    assert!(answer.is_empty());
    let begin = Instant::now();
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    while !TcpStream::connect(address).await.is_err_and(refused) {
        assert!(begin.elapsed() < PATIENCE, "the port is still open");
    }
}

#[tokio::test]
async fn an_instance_given_twice_is_refused() {
    let twice = [(ID.to_owned(), "one".to_owned()), (ID.to_owned(), "two".to_owned())];
    let refused = Emulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), twice).await;
    let error = refused.expect_err("it is given twice");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), format!("instance {ID} is given twice"));
}

#[tokio::test]
async fn the_token_is_never_shown() {
    let session = Session::start().await;
    let shown = format!("{:?} {:#?}", session.emulator, session.emulator);
    assert!(shown.contains(ID) && !shown.contains(TOKEN), "{shown}");
    session.emulator.fault(ID, Fault::before(answer_500()));
    session.get("getSettings").await;
    assert!(!format!("{:?}", session.emulator.journal(ID)).contains(TOKEN));
}

#[cfg(feature = "broker-tests")]
#[tokio::test]
async fn the_vendor_s_python_client_works_unmodified() {
    let python = std::env::var_os("BRIDGE_TEST_PYTHON")
        .expect("BRIDGE_TEST_PYTHON must name a Python with tests/clients/requirements.txt installed: run tests/run");
    let session = Session::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/vendor_python.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args([&session.emulator.url(), ID, TOKEN])
        .env("NO_PROXY", "*")
        .output()
        .await
        .expect("the interpreter starts");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("the vendor's SDK is content"), "{said}");
    let deleted = session.events().into_iter().filter(|event| *event == EventKind::Deleted).count();
    assert_eq!(deleted, 2);
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn the_vendor_s_javascript_client_works_unmodified() {
    let session = Session::start().await;
    let said = crate::support::foreign_client("vendor_javascript.js", &[&session.emulator.url(), ID, TOKEN]);
    assert_eq!(said, [json!({"content": true})]);
    let deleted = session.events().into_iter().filter(|event| *event == EventKind::Deleted).count();
    assert_eq!(deleted, 2);
}
