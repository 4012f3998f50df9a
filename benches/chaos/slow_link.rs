//! A slow and lossy link, as far as a program can pretend one: bytes arrive later, and some of them
//! much later, as when a segment had to be sent again.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::Failure;
use crate::support::pace::Random;

/// One way.
const DELAY: Duration = Duration::from_millis(2);
/// Of what is read at once, this share comes late. A batch is several such reads.
const LOSS: f64 = 0.002;
/// The least time after which Linux sends a segment again.
const LATE: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on their way.
const WINDOW: usize = 1024;

/// A running link; it ends when dropped, with its connections.
#[derive(Debug)]
pub(crate) struct SlowLink {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

impl SlowLink {
    /// A link to `target`.
    pub(crate) async fn start(target: SocketAddr, seed: u64) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target, seed));
        Ok(Self { address, _task: task })
    }

    /// What it does, in words.
    pub(crate) fn describe() -> String {
        format!("links of {DELAY:?} each way, {} % of it {LATE:?} later", LOSS * 100.0)
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, mut seed: u64) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        seed = seed.wrapping_add(2);
        connections.spawn(async move {
            // Who is not there shows as a connection that ends at once.
            let Ok(far) = TcpStream::connect(target).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::select! {
                () = pass(from_near, to_far, Random::new(seed)) => {}
                () = pass(from_far, to_near, Random::new(!seed)) => {}
            }
        });
    }
}

/// One direction, until either end has gone.
async fn pass(from: OwnedReadHalf, to: OwnedWriteHalf, random: Random) {
    let (sender, receiver) = channel(WINDOW);
    tokio::join!(read(from, sender, random), write(to, receiver));
}

async fn read(mut from: OwnedReadHalf, link: Sender<(Instant, Bytes)>, mut random: Random) {
    let mut arrives = Instant::now();
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        if !matches!(from.read_buf(&mut chunk).await, Ok(1..)) {
            return;
        }
        let late = if random.unit() < LOSS { LATE } else { Duration::ZERO };
        // In order: what comes after something late is late, too.
        arrives = arrives.max(Instant::now() + DELAY + late);
        if link.send((arrives, chunk.freeze())).await.is_err() {
            return;
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut link: Receiver<(Instant, Bytes)>) {
    while let Some((arrives, chunk)) = link.recv().await {
        tokio::time::sleep_until(arrives).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
