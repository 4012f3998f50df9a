//! Accepting callers: HTTP/1.1 and HTTP/2 on every port, bounded in connections, drained in order.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listener::Listener;
use super::pace::{paced, watched};
use super::socket::{Socket, SocketTimeouts};
use crate::telemetry::{GivenUp, Throttle};

/// Large enough for a tensor of megabytes to arrive in few frames.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Two large batches, so that a window never stalls one.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Clients with one connection send many calls at once; the queue bounds them, not this.
const MAX_STREAMS: u32 = 4096;
/// A gateway resets what its own callers give up, in bursts; far fewer would end its connection with
/// everybody else's calls.
const MAX_RESET_STREAMS: usize = 1024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes of the head of a request over HTTP/1.1, and of its fields over HTTP/2; a larger one is
/// refused with 431.
const MAX_HEAD_BYTES: usize = 128 << 10;
const MAX_FIELD_BYTES: u32 = 32 << 10;
/// Fields in the head of a request over HTTP/1.1.
const MAX_FIELDS: usize = 128;

/// Accepts connections and serves them until told to stop.
#[derive(Debug)]
pub struct Acceptor {
    /// Connections open at once, over all listeners that share it.
    pub connections: Arc<Semaphore>,
    /// Owns the tasks of connections and of their HTTP/2 streams.
    pub tasks: TaskTracker,
    /// How long a caller may send nothing in the middle of a request.
    pub read_timeout: Duration,
    /// How long a caller may take nothing of an answer that is there.
    pub write_timeout: Duration,
    /// Counts those who did nothing for so long.
    pub given_up: GivenUp,
    /// No connection is accepted any more, and those that are open finish what they have begun.
    pub stop: CancellationToken,
}

/// Spawns the streams of a connection where a drain can wait for them.
#[derive(Clone, Debug)]
struct TrackedExecutor {
    tasks: TaskTracker,
    write_timeout: Duration,
    given_up: GivenUp,
}

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = watched(future, self.write_timeout);
        let given_up = self.given_up.stream_not_reading.clone();
        drop(self.tasks.spawn(async move {
            if stream.await.is_none() {
                given_up.increment(1);
            }
        }));
    }
}

impl Acceptor {
    /// Serves `listener` until `stop`, then closes it. What it returns tells the connections that are
    /// still open to finish, and waits for them.
    pub async fn serve<L, S, F>(self, mut listener: L, service: S) -> GracefulShutdown
    where
        L: Listener,
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let builder = self.builder();
        let timeouts = SocketTimeouts { greeting: self.read_timeout, write: self.write_timeout };
        let (graceful, loud) = (GracefulShutdown::new(), Throttle::new(1));
        while let Some((stream, permit)) = self.next(&mut listener, &loud).await {
            let service = service.clone();
            let service = service_fn(move |request| {
                let response = service(request);
                async move { Ok::<_, Infallible>(paced(response.await)) }
            });
            let stream = Socket::new(stream, timeouts, self.given_up.clone());
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            self.tasks.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error, "a connection ended badly");
                }
                drop(permit);
            });
        }
        graceful
    }

    /// The next connection, once there is room for it; `None` when it is time to stop.
    async fn next<L: Listener>(
        &self,
        listener: &mut L,
        loud: &Throttle,
    ) -> Option<(L::Connection, OwnedSemaphorePermit)> {
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok(stream) => {
                        // Not before: a listener to which nobody comes would hold room that another
                        // one needs.
                        let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
                        return Some((stream, permit));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: others must close before this succeeds.
                        if let Some(left_out) = loud.admit() {
                            tracing::warn!(%error, left_out, "accepting a connection failed");
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            accepted = accept => accepted,
        }
    }

    fn builder(&self) -> auto::Builder<TrackedExecutor> {
        let mut builder = auto::Builder::new(TrackedExecutor {
            tasks: self.tasks.clone(),
            write_timeout: self.write_timeout,
            given_up: self.given_up.clone(),
        });
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_FIELDS)
            .half_close(false);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_frame_size(MAX_FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_header_list_size(MAX_FIELD_BYTES)
            .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
        builder
    }
}
