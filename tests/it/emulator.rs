use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use green_api_bridge::emulator::{self, Emulator, EventKind, Fault, FaultKind, Method, When};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The control endpoints.
mod control;
/// What others may do to them.
mod control_port;
/// What goes wrong on purpose.
mod faults;
/// Where the real service is unknown or changing.
mod knobs;
/// Receiving and deleting.
mod queue;
/// Paths, tokens, settings and state.
mod routes;
/// The server itself.
mod server;

const ID: &str = "1101000001";
const TOKEN: &str = "d75b3a66374942c5b3c019c698abc2067e151558acbd412345";
const JSON: &str = "application/json; charset=utf-8";
/// Far longer than anything here takes, far shorter than a test run hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// An emulator with one instance and a client for it.
struct Session {
    emulator: Emulator,
    client: reqwest::Client,
}

/// What a client sees of an answer.
struct Answer {
    status: u16,
    content_type: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the answer is JSON")
    }
}

impl Session {
    async fn start() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let instances = [(ID.to_owned(), TOKEN.to_owned())];
        let emulator = Emulator::start(listen, instances).await.expect("a free port");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { emulator, client }
    }

    async fn send(&self, verb: &str, path: &str, body: &str) -> reqwest::Result<Answer> {
        let verb = verb.parse().expect("a method");
        let url = format!("{}{path}", self.emulator.url());
        let request = self.client.request(verb, url).timeout(PATIENCE).body(body.to_owned());
        let response = request.send().await?;
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.to_str().expect("ASCII").to_owned());
        Ok(Answer {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default(),
            text: response.text().await?,
        })
    }

    async fn call(&self, verb: &str, path: &str, body: &str) -> Answer {
        self.send(verb, path, body).await.expect("an answer")
    }

    async fn get(&self, method: &str) -> Answer {
        self.call("GET", &format!("/waInstance{ID}/{method}/{TOKEN}"), "").await
    }

    async fn receive(&self) -> Answer {
        self.get("receiveNotification").await
    }

    async fn delete(&self, receipt: &str) -> Answer {
        self.call("DELETE", &format!("/waInstance{ID}/deleteNotification/{TOKEN}/{receipt}"), "").await
    }

    async fn set_settings(&self, settings: &str) -> Answer {
        self.call("POST", &format!("/waInstance{ID}/setSettings/{TOKEN}"), settings).await
    }

    async fn control(&self, verb: &str, endpoint: &str, body: &str) -> Answer {
        self.call(verb, &format!("/_emulator/{ID}/{endpoint}"), body).await
    }

    fn events(&self) -> Vec<EventKind> {
        self.emulator.journal(ID).into_iter().map(|event| event.event).collect()
    }

    /// Sends a request by hand and returns the open connection.
    async fn raw(&self, verb: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.emulator.address()).await.expect("a connection");
        let request = format!("{verb} {path} HTTP/1.1\r\nHost: emulator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        stream
    }
}

/// Reads until the connection ends: the bytes of the answer and how it ended.
async fn rest_of(mut stream: TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    (answer, end.map(|_| ()).map_err(|error| error.kind()))
}

/// The server has the request and neither answers nor hangs up.
async fn assert_silent(stream: &mut TcpStream) {
    let silence = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(silence.is_err(), "the connection answered or ended: {silence:?}");
}

fn receive_path() -> String {
    format!("/waInstance{ID}/receiveNotification/{TOKEN}")
}

fn answer_500() -> FaultKind {
    FaultKind::Answer { status: 500, body: "broken".to_owned(), content_type: Some("text/plain".to_owned()) }
}
