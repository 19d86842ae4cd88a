//! A way to a broker that a test can cut.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// It arrives.
    Fine,
    /// Nothing arrives and nothing is refused: it comes late, when the weather is fine again.
    Silent,
    /// As `Silent`, but connections that begin in it are fine: what was sent earlier comes later.
    Late,
    /// Connections are closed, and every new one as well.
    Cut,
}

/// Forwards connections; ends them when dropped.
pub struct Network {
    weather: watch::Sender<Weather>,
    serving: JoinHandle<()>,
}

impl Network {
    /// From `before` to `behind`.
    pub async fn start(before: &str, behind: &str) -> Self {
        let listener = TcpListener::bind(before).await.expect("a free port");
        let behind: SocketAddr = behind.parse().expect("an address");
        let (weather, seen) = watch::channel(Weather::Fine);
        let serving = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // A connection that ends is nobody's failure.
                tokio::spawn({
                    let seen = seen.clone();
                    async move { forward(near, behind, seen).await.ok() }
                });
            }
        });
        Self { weather, serving }
    }

    pub fn becomes(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.serving.abort();
        self.weather.send_replace(Weather::Cut);
    }
}

async fn forward(near: TcpStream, behind: SocketAddr, mut weather: watch::Receiver<Weather>) -> io::Result<()> {
    let at_first = *weather.borrow();
    if at_first == Weather::Cut {
        return Ok(());
    }
    let held: &[Weather] =
        if at_first == Weather::Late { &[Weather::Silent] } else { &[Weather::Silent, Weather::Late] };
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = TcpStream::connect(behind).await?.into_split();
    let (there, back) =
        (pump(from_near, to_far, weather.clone(), held), pump(from_far, to_near, weather.clone(), held));
    let cut = weather.wait_for(|weather| *weather == Weather::Cut);
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
        _ = cut => Ok(()),
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    held: &[Weather],
) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if weather.wait_for(|weather| !held.contains(weather)).await.is_err() {
            return Ok(());
        }
        to.write_all(&bytes[..count]).await?;
    }
}
