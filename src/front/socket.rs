//! A caller's socket that does not wait for ever: for the first bytes, for a peer that does not read,
//! for the last words.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::telemetry::GivenUp;

/// How an HTTP/2 connection begins; until a peer has sent it whole, or something else, nobody knows
/// which protocol it speaks, and no time-out of either protocol applies.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long is read on after the last answer. What a peer still sends would else reset the
/// connection, and the answer that is on its way would be lost.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes thrown away at a time then.
const THROWN_AWAY: usize = 16 << 10;

/// How long a peer may do nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketTimeouts {
    /// Before it has said which protocol it speaks.
    pub(super) greeting: Duration,
    /// While data waits for it to be taken.
    pub(super) write: Duration,
}

/// A socket whose reads and writes fail when the peer does nothing for too long.
#[derive(Debug)]
pub(super) struct Socket<S> {
    inner: S,
    greeting: Option<Greeting>,
    write_timeout: Duration,
    given_up: GivenUp,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    linger: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Greeting {
    /// Bytes of the preface that have come.
    matched: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<S> Socket<S> {
    pub(super) fn new(inner: S, timeouts: SocketTimeouts, given_up: GivenUp) -> Self {
        let timeout = Box::pin(tokio::time::sleep(timeouts.greeting));
        Self {
            inner,
            greeting: Some(Greeting { matched: 0, timeout }),
            write_timeout: timeouts.write,
            given_up,
            stalled: None,
            linger: None,
        }
    }

    /// Passes on what became of a write, unless it has waited for too long.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let by = Instant::now() + self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        ready!(stalled.as_mut().poll(context));
        self.given_up.not_reading.increment(1);
        Poll::Ready(Err(timed_out("the peer did not take its answer (write_timeout)")))
    }
}

impl Greeting {
    /// Whether it is known now which protocol the peer speaks.
    fn is_over_with(&mut self, bytes: &[u8]) -> bool {
        let expected = PREFACE.get(self.matched..).unwrap_or_default();
        let common = expected.iter().zip(bytes).take_while(|(one, two)| one == two).count();
        self.matched += common;
        common < bytes.len() || self.matched == PREFACE.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.inner).poll_read(context, buffer);
        let Some(greeting) = &mut this.greeting else { return outcome };
        if outcome.is_ready() {
            if greeting.is_over_with(buffer.filled().get(before..).unwrap_or_default()) {
                this.greeting = None;
            }
            return outcome;
        }
        ready!(greeting.timeout.as_mut().poll(context));
        this.given_up.silent.increment(1);
        Poll::Ready(Err(timed_out("the peer said nothing (read_timeout)")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.written(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut space = [0; THROWN_AWAY];
        while linger.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The peer has nothing more to say, or is gone.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::telemetry::Telemetry;

    const TIMEOUTS: SocketTimeouts =
        SocketTimeouts { greeting: Duration::from_secs(10), write: Duration::from_secs(30) };

    /// A socket with room for 8 bytes on its way, and its peer.
    fn pair() -> (Socket<DuplexStream>, DuplexStream) {
        let (ours, peer) = duplex(8);
        let given_up = Telemetry::new().unwrap().given_up();
        (Socket::new(ours, TIMEOUTS, given_up), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (mut socket, mut peer) = pair();
        let began = Instant::now();
        socket.write_all(&[1; 8]).await.unwrap();
        let stalled = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            peer.read_exact(&mut [0; 8]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            outcome = socket.write_all(&[1; 16]) => outcome.unwrap_err(),
            () = stalled => unreachable!(),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 50, "progress starts the time anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_say_what_it_speaks_is_given_up() {
        for said in [&b""[..], b"PRI * HT"] {
            let (mut socket, mut peer) = pair();
            peer.write_all(said).await.unwrap();
            let began = Instant::now();
            let mut heard = Vec::new();
            let error = socket.read_to_end(&mut heard).await.unwrap_err();
            assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 10));
            assert_eq!(heard, said);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_begun_may_take_its_time() {
        for said in [&b"G"[..], b"PRI * HTTP/1", PREFACE] {
            let (mut socket, mut peer) = pair();
            let speak = async {
                peer.write_all(said).await.unwrap();
                tokio::time::sleep(Duration::from_secs(100)).await;
                peer.write_all(b"!").await.unwrap();
            };
            let mut heard = vec![0; said.len() + 1];
            let (heard, ()) = tokio::join!(socket.read_exact(&mut heard), speak);
            heard.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_peer_still_sends_is_thrown_away_for_a_moment() {
        let (mut socket, mut peer) = pair();
        let began = Instant::now();
        let send = async {
            while peer.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            outcome = socket.shutdown() => outcome.unwrap(),
            () = send => unreachable!(),
        }
        let (mut socket, peer) = pair();
        drop(peer);
        socket.shutdown().await.unwrap();
        assert!(began.elapsed() <= LINGER + Duration::from_millis(10));
    }
}
