//! Connections that can be cut from within a handler.
//!
//! A handler can only answer, and axum turns even its failures into answers. So the socket itself carries a switch: once
//! it is thrown every read and write fails, hyper gives up, and the client sees a reset connection without one byte.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Listens for connections; all of them are cut when `stopped` is cancelled.
pub(super) struct CuttableListener {
    pub(super) listener: TcpListener,
    pub(super) stopped: CancellationToken,
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CuttableStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Only a matter of speed, and impossible only on a connection that is gone already.
        stream.set_nodelay(true).ok();
        let cut = self.stopped.child_token();
        let when_cut = Box::pin(cut.clone().cancelled_owned());
        (CuttableStream { stream, cut, when_cut }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The switch of the connection a request came on.
#[derive(Clone)]
pub(super) struct Connection(CancellationToken);

impl Connection {
    /// Resets the connection. Whatever the handler answers after this is never sent.
    pub(super) fn cut(&self) {
        self.0.cancel();
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        Self(stream.io().cut.clone())
    }
}

pub(super) struct CuttableStream {
    stream: TcpStream,
    cut: CancellationToken,
    /// Wakes a connection on which nothing is being sent.
    when_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CuttableStream {
    fn refuse(&self) -> io::Error {
        // Close with a reset instead of an orderly end, which some clients take for an empty answer.
        self.stream.set_zero_linger().ok();
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.when_cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(self.refuse()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(self.refuse()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(self.refuse()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
