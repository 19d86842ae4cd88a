//! The floor: receive and delete, with bare `hyper`, one connection for each instance, and nothing in between.

use std::future::poll_fn;
use std::num::NonZero;
use std::pin::Pin;
use std::thread::available_parallelism;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::stage;

/// As large as that of the bridge.
pub fn runtime() -> Runtime {
    let cores = available_parallelism().map_or(1, NonZero::get);
    Builder::new_multi_thread().worker_threads(cores.div_ceil(2)).enable_all().build().unwrap()
}

/// Until it is killed.
pub async fn run(url: &str, instances: usize) {
    let host = url.strip_prefix("http://").unwrap();
    let mut relays = JoinSet::new();
    for id in stage::ids(instances) {
        relays.spawn(relay(host.to_owned(), id));
        // Not all at once, as the bridge.
        sleep(Duration::from_millis(1)).await;
    }
    relays.join_all().await;
}

async fn relay(host: String, id: String) {
    let stream = TcpStream::connect(&host).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let receive = format!("/waInstance{id}/receiveNotification/{}?receiveTimeout=20", stage::TOKEN);
    loop {
        let answer = ask(&mut connection, Method::GET, &host, &receive).await;
        if let Some(receipt) = receipt(&answer) {
            let delete = format!("/waInstance{id}/deleteNotification/{}/{receipt}", stage::TOKEN);
            ask(&mut connection, Method::DELETE, &host, &delete).await;
        }
    }
}

async fn ask(connection: &mut SendRequest<Empty<Bytes>>, method: Method, host: &str, path: &str) -> Vec<u8> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, host).body(Empty::new()).unwrap();
    connection.ready().await.unwrap();
    let mut body = connection.send_request(request).await.unwrap().into_body();
    let mut answer = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        answer.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    answer
}

fn receipt(answer: &[u8]) -> Option<&str> {
    let (_, rest) = str::from_utf8(answer).unwrap().split_once("\"receiptId\":")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()
}
