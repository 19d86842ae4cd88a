//! Logins by tokens of an OpenID provider, at a real Kafka whose own validator checks them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::{Value, json};

use crate::kafka_security::permission;
use crate::kafka_topics::Topics;
use crate::readme::example;
use crate::scene::Scene;
use crate::support::{Broker, event, eventually, from_test_run};

const SECRET: &str = "s3cret-canary";
/// So short that they are refreshed several times in a test.
const LIFETIME: Duration = Duration::from_secs(6);

/// An OpenID provider with one client.
struct Provider {
    key: EcdsaKeyPair,
    issued: AtomicUsize,
    refuses: AtomicBool,
}

impl Provider {
    fn new() -> Arc<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Arc::new(Self { key, issued: AtomicUsize::new(0), refuses: AtomicBool::new(false) })
    }

    /// For whoever checks its tokens (RFC 7517): behind a byte that says so the key is its two coordinates.
    fn keys(&self) -> String {
        let [x, y] = [1..33, 33..65].map(|range| BASE64_URL_SAFE_NO_PAD.encode(&self.key.public_key().as_ref()[range]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": x, "y": y}]})
            .to_string()
    }

    fn token(&self) -> String {
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({"iss": "https://login.example.com", "sub": "bridge", "aud": "kafka", "scope": "kafka", "iat": now, "exp": now + LIFETIME.as_secs()});
        let encoded = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(json!({"alg": "ES256", "kid": "1"})), encoded(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// The answer to a client (RFC 6749, section 4.4).
    fn answer(&self, headers: &HeaderMap, form: &str) -> (StatusCode, Json<Value>) {
        let login = format!("Basic {}", BASE64_STANDARD.encode(format!("bridge:{SECRET}")));
        let is_known = headers.get("authorization").is_some_and(|given| given.as_bytes() == login.as_bytes());
        assert!(form.contains("grant_type=client_credentials") && form.contains("scope=kafka"), "{form}");
        if !is_known || self.refuses.load(SeqCst) {
            return (StatusCode::UNAUTHORIZED, Json(json!({"error": "invalid_client"})));
        }
        self.issued.fetch_add(1, SeqCst);
        let answer = json!({"access_token": self.token(), "token_type": "Bearer", "expires_in": LIFETIME.as_secs()});
        (StatusCode::OK, Json(answer))
    }

    /// Serves it, and returns the address for tokens.
    async fn start(self: &Arc<Self>) -> String {
        let provider = Arc::clone(self);
        let token = move |headers: HeaderMap, form: String| async move { provider.answer(&headers, &form) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let service = axum::Router::new().route("/token", post(token));
        tokio::spawn(async move { axum::serve(listener, service).await });
        url
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_log_in_are_refreshed_and_when_refused_are_asked_for_again() {
    let provider = Provider::new();
    let url = provider.start().await;
    let broker = Broker::start_kafka_trusting(&provider.keys());
    let (scene, topics) = (Scene::new().await, Topics::at(broker.address("BRIDGE_TEST_KAFKA")));
    let name = &topics.name;
    permission(
        &topics,
        &[
            &format!("allow:topic:{name}.*:create,describe,describe_configs,write"),
            &format!("allow:topic:{name}.ledger:read"),
            &format!("allow:transactional_id:{name}:describe,write"),
        ],
    );
    // As the page has it.
    let secret = scene.path("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let sink = example("kafka.md", "OAUTHBEARER")
        .replace("sink:\n", "")
        .replace("kafka.example.com:9095", &broker.address("BRIDGE_TEST_KAFKA_OAUTH"))
        .replace("https://login.example.com/token", &url)
        .replace("/etc/ssl/kafka-authority.pem", &(from_test_run("BRIDGE_TEST_KAFKA_KEYS") + "/authority.pem"))
        .replace("/run/secrets/oauth-client-secret", &secret.display().to_string());
    let names = format!(
        "\n    topic: {name}.notifications\n    ledger_topic: {name}.ledger\n    dead_letter_topic: {name}.dead\n    \
         transactional_id: {name}\n"
    );
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &format!("\n{}{names}", sink.trim_end()));
    scene.drained();
    // Each client asks for a token of its own, so only many more than there are clients are refreshed ones.
    let before = provider.issued.load(SeqCst);
    eventually("tokens are refreshed", || provider.issued.load(SeqCst) >= before + 10);
    scene.push(["2"]);
    scene.drained();
    assert!(!bridge.log().contains("sink_unavailable"), "{}", bridge.log());

    provider.refuses.store(true, SeqCst);
    bridge.wait_for_log("sink_unavailable");
    scene.push(["3"]);
    provider.refuses.store(false, SeqCst);
    bridge.wait_for_log(&event("condition_cleared"));
    scene.drained();
    assert_eq!(topics.bodies(3), ["1", "2", "3"]);
    let log = bridge.log();
    assert!(!log.contains(SECRET) && !log.contains("eyJ"), "a token or the secret: {log}");
}
