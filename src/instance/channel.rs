//! One HTTP/2 connection to one instance, made again when it breaks.
//!
//! Calls share the connection as streams of their own. It is made by the first call that finds
//! none; calls that come meanwhile wait for that one attempt and share its outcome.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::Failure;
use super::connection::{TaskExecutor, TaskOwner, chain};
use super::network::{CONNECT_TIMEOUT, Network};
use crate::config::InstanceUrl;
use crate::wire::body::RopeBody;

/// What one stream may receive before it is read: a large reply at full speed.
const STREAM_WINDOW: u32 = 16 << 20;

/// What all streams together may receive before they are read.
const CONNECTION_WINDOW: u32 = 32 << 20;

/// The largest frame that we take: replies come in few pieces.
const MAX_FRAME: u32 = 1 << 20;

/// Statuses carry texts in headers, and some servers put stack traces into them.
const MAX_HEADERS: u32 = 64 << 10;

/// How a peer that died without a word is noticed.
#[derive(Clone, Copy, Debug)]
struct Pings {
    /// How long an instance may be silent while it owes a reply before it is pinged.
    interval: Duration,
    /// How long it has to answer the ping.
    timeout: Duration,
}

/// Rarer than what gRPC servers take for abuse; an idle connection is left alone for the same
/// reason.
const PINGS: Pings = Pings { interval: Duration::from_secs(20), timeout: Duration::from_secs(5) };

/// One HTTP/2 connection to one instance, made again when it breaks.
pub(super) struct Channel {
    network: Network,
    url: InstanceUrl,
    pings: Pings,
    live: ArcSwapOption<Connection>,
    /// Held by whoever is connecting; the error of the last attempt that failed.
    connecting: Mutex<String>,
    failed_attempts: AtomicU64,
}

/// A connection; its tasks end with its last holder, so a call under way outlives a reconnect.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RopeBody>,
    _tasks: TaskOwner,
}

/// While somebody waits for an answer that an instance should give at once: giving up says that the
/// connection may be dead.
#[derive(Debug)]
pub(super) struct Doubt<'a> {
    channel: &'a Channel,
    connection: Option<Arc<Connection>>,
}

impl Doubt<'_> {
    /// There was an answer.
    pub(super) fn dispel(mut self) {
        self.connection = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.channel.forget(connection);
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.url.to_string()).finish()
    }
}

impl Channel {
    pub(super) fn new(network: Network, url: InstanceUrl) -> Self {
        Self::with_pings(network, url, PINGS)
    }

    fn with_pings(network: Network, url: InstanceUrl, pings: Pings) -> Self {
        Self {
            network,
            url,
            pings,
            live: ArcSwapOption::empty(),
            connecting: Mutex::new(String::new()),
            failed_attempts: AtomicU64::new(0),
        }
    }

    pub(super) fn url(&self) -> &InstanceUrl {
        &self.url
    }

    /// Doubts the connection that there is now, until it is dispelled. When it is dropped before, what
    /// comes next goes over another connection; what is under way stays on this one.
    ///
    /// Where a network was away for a while the kernel's next attempt to send again may be as far off
    /// as the network was away. A new connection finds out at once that it is back.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        Doubt { channel: self, connection: self.current() }
    }

    /// Sends a request and waits for the head of the reply; the connection must be held until the
    /// body is read.
    pub(super) async fn send(
        &self,
        mut request: Request<RopeBody>,
    ) -> Result<(Response<Incoming>, Arc<Connection>), Failure> {
        let mut fresh = false;
        loop {
            let connection = match self.current() {
                Some(connection) => connection,
                None => {
                    fresh = true;
                    self.connect().await.map_err(Failure::connection)?
                }
            };
            match connection.sender.clone().try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                // A connection that went away unnoticed gives back what it never sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        request = unsent;
                        self.forget(&connection);
                    }
                    _ => {
                        let text = chain(&error.into_error());
                        return Err(Failure::lost(format!("the connection broke: {text}")));
                    }
                },
            }
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        self.live.load_full().filter(|connection| !connection.sender.is_closed())
    }

    fn forget(&self, connection: &Arc<Connection>) {
        drop(self.live.compare_and_swap(connection, None));
    }

    async fn connect(&self) -> Result<Arc<Connection>, String> {
        let seen = self.failed_attempts.load(Ordering::Acquire);
        let mut last_error = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if self.failed_attempts.load(Ordering::Acquire) != seen {
            return Err(last_error.clone());
        }
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        let outcome = attempt.unwrap_or_else(|_| {
            Err(format!("no connection came about within {} ms", CONNECT_TIMEOUT.as_millis()))
        });
        match outcome {
            Ok(connection) => {
                let connection = Arc::new(connection);
                self.live.store(Some(Arc::clone(&connection)));
                Ok(connection)
            }
            Err(error) => {
                *last_error = error;
                self.failed_attempts.fetch_add(1, Ordering::Release);
                Err(last_error.clone())
            }
        }
    }

    async fn open(&self) -> Result<Connection, String> {
        let link = self.network.connect(&self.url).await;
        let link = link.map_err(|error| format!("cannot connect: {error}"))?;
        let (executor, tasks) = TaskExecutor::new();
        let (sender, connection) = Builder::new(executor.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(self.pings.interval)
            .keep_alive_timeout(self.pings.timeout)
            .handshake(TokioIo::new(link))
            .await
            .map_err(|error| chain(&error))?;
        let address = self.url.authority();
        executor.execute(async move {
            if let Err(error) = connection.await {
                tracing::debug!(instance = address, error = chain(&error), "connection ended");
            }
        });
        Ok(Connection { sender, _tasks: tasks })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;
    use crate::lane::Blame;
    use crate::tensor::Rope;

    #[tokio::test]
    async fn a_peer_that_died_without_a_word_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = InstanceUrl { host: "127.0.0.1".to_owned(), port, path_prefix: String::new() };
        let pings =
            Pings { interval: Duration::from_millis(20), timeout: Duration::from_millis(20) };
        let channel = Channel::with_pings(Network::Tcp, url.clone(), pings);
        let body = RopeBody::new(Rope::new());
        let request = Request::post(format!("http://{}/", url.authority())).body(body).unwrap();
        // Accepted by the kernel, and never read by anybody.
        let outcome = tokio::time::timeout(Duration::from_secs(10), channel.send(request)).await;
        let failure = outcome.unwrap().map(drop).unwrap_err();
        assert_eq!(failure.blame, Blame::Lost);
        assert!(failure.fault.message.contains("keep-alive"), "{}", failure.fault);
    }
}
