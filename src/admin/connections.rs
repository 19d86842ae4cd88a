//! The connections of the admin port: a limited number, each for one request and a limited time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::debug;

/// More than probes, scrapers and a few people's browsers need together.
const MOST: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to read the complete answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_HEAD: usize = 16 * 1024;
/// How much of an unread answer the kernel buffers; by default it buffers megabytes.
const SEND_BUFFER: usize = 256 * 1024;
/// The pause after a failed accept when there is no connection to close.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts and serves connections for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream, router.clone()).await,
            // Most likely the process has no file descriptor left: a connection is closed to make room.
            Err(error) => {
                debug!(%error, "the admin port cannot accept a connection");
                if !connections.close_one().await {
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

struct Connection {
    /// Set when its request has arrived. Until then it is idle.
    asked: Arc<SetOnce<()>>,
    task: JoinHandle<()>,
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections(Vec<Connection>);

impl Connections {
    async fn add(&mut self, stream: TcpStream, router: Router) {
        self.forget_the_closed();
        if self.0.len() >= MOST {
            self.close_one().await;
        }
        let asked = Arc::new(SetOnce::new());
        let task = tokio::spawn(answer(stream, router, Arc::clone(&asked)));
        self.0.push(Connection { asked, task });
    }

    /// Closes the connection that has been idle longest or, if all are being answered, the oldest. Returns whether there was one.
    async fn close_one(&mut self) -> bool {
        self.forget_the_closed();
        if self.0.is_empty() {
            return false;
        }
        let idle = self.0.iter().position(|connection| !connection.asked.initialized());
        let Connection { task, .. } = self.0.remove(idle.unwrap_or(0));
        task.abort();
        // Waits until its socket is closed. The error only says that it was aborted.
        task.await.ok();
        true
    }

    fn forget_the_closed(&mut self) {
        self.0.retain(|connection| !connection.task.is_finished());
    }
}

/// Serves one request. The connection is not kept alive, so its lifetime is limited, and only connections without a request yet
/// are idle.
fn answer(stream: TcpStream, router: Router, asked: Arc<SetOnce<()>>) -> impl Future<Output = ()> {
    limit_what_the_kernel_keeps(&stream);
    let router = TowerToHyperService::new(router);
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            // Fails only for a second request, which does not come.
            asked.set(()).ok();
            router.call(request)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    async move {
        let too_late = async {
            asked.wait().await;
            sleep(ANSWER_TIMEOUT).await;
        };
        tokio::select! {
            // How it ended concerns only the client.
            _ = connection => {}
            () = too_late => {}
        }
    }
}

/// Unread data outlives the connection in the kernel, for minutes and beyond our control.
fn limit_what_the_kernel_keeps(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Both fail only if the socket is closed already.
    socket.set_send_buffer_size(SEND_BUFFER).ok();
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(ANSWER_TIMEOUT)).ok();
}
