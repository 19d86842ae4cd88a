//! The admin port's connections: a few at a time, each for one request and for a limited time.

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
/// How long a client may take to read the answer, all of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_HEAD: usize = 16 * 1024;
/// What the kernel keeps of an answer that is not read; left to itself, it keeps megabytes.
const SEND_BUFFER: usize = 256 * 1024;
/// Before accepting is tried again, when it fails for reasons that are not ours.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts and answers for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.add(stream, router.clone()).await,
            // Most likely no file is left to the process: one of ours is given up for who waits.
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
    /// Set when its request is there. Until then it is idle.
    asked: Arc<SetOnce<()>>,
    task: JoinHandle<()>,
}

/// Those that are open, the oldest first.
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

    /// Closes the one idle longest or, when all are being answered, the one that has been for longest. Whether there was one.
    async fn close_one(&mut self) -> bool {
        self.forget_the_closed();
        if self.0.is_empty() {
            return false;
        }
        let idle = self.0.iter().position(|connection| !connection.asked.initialized());
        let Connection { task, .. } = self.0.remove(idle.unwrap_or(0));
        task.abort();
        // Until its socket is closed. That it was aborted is no news.
        task.await.ok();
        true
    }

    fn forget_the_closed(&mut self) {
        self.0.retain(|connection| !connection.task.is_finished());
    }
}

/// One request and its answer. The connection is not kept for another: so its whole life has a limit, and none is idle but
/// those that have not asked yet.
fn answer(stream: TcpStream, router: Router, asked: Arc<SetOnce<()>>) -> impl Future<Output = ()> {
    limit_what_the_kernel_keeps(&stream);
    let router = TowerToHyperService::new(router);
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            // Twice would be a second request, which does not come.
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
            // How it ended is the client's affair.
            _ = connection => {}
            () = too_late => {}
        }
    }
}

/// What is written and not read yet outlives the connection in the kernel, for minutes and out of our sight.
fn limit_what_the_kernel_keeps(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Neither fails but on a socket that is gone already.
    socket.set_send_buffer_size(SEND_BUFFER).ok();
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(ANSWER_TIMEOUT)).ok();
}
