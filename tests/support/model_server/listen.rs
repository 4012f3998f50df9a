//! Accepting connections: HTTP/1.1 and HTTP/2 on every port, each connection under a cut switch.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::faults::{self, ConnectionCut};
use super::statistics::Counters;

/// HTTP/2 flow-control window of a stream and of a connection: a megabyte tensor passes in one go.
const WINDOW_BYTES: u32 = 16 << 20;
const MAX_FRAME_BYTES: u32 = 1 << 20;
const MAX_STREAMS: u32 = 65_536;

/// Where connections come from.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection, and says how it is reset.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Reset)>> + Send;
}

/// Makes a reset of what would be the close of a connection.
pub type Reset = Box<dyn FnOnce() + Send>;

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Reset)> {
        let (stream, _) = Self::accept(self).await?;
        let _ = stream.set_nodelay(true);
        // The stream moves into hyper; its duplicate can still ask for a reset instead of a close.
        let duplicate = socket2::Socket::from(stream.as_fd().try_clone_to_owned()?);
        let reset = move || {
            let _ = duplicate.set_linger(Some(Duration::ZERO));
        };
        Ok((stream, Box::new(reset)))
    }
}

/// Binds a port, and says which one where the system chose.
pub(super) async fn bind(address: &mut SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(*address).await?;
    *address = listener.local_addr()?;
    Ok(listener)
}

/// Accepts until `stop`, then ends every connection at once.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    engine: Arc<Engine>,
    router: axum::Router,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok(accepted) => {
                connections.spawn(connection(accepted, Arc::clone(&engine), router.clone()));
            }
            // Out of file descriptors, most likely: a pause instead of a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection<S>((stream, reset): (S, Reset), engine: Arc<Engine>, router: axum::Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _open = OpenConnection::count(&engine.counters);
    let cut = ConnectionCut::default();
    let service = service_fn({
        let cut = cut.clone();
        move |request: Request<hyper::body::Incoming>| {
            let (engine, router, cut) = (Arc::clone(&engine), router.clone(), cut.clone());
            async move {
                let request = request.map(Body::new);
                Ok::<_, std::convert::Infallible>(
                    faults::answer(engine, router, cut, request).await,
                )
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).auto_date_header(false);
    builder
        .http2()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .max_concurrent_streams(MAX_STREAMS)
        .auto_date_header(false);
    tokio::select! {
        // The connection first: what a cut reply has written leaves before the cut.
        biased;
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = cut.reset.cancelled() => reset(),
        () = cut.close.cancelled() => {}
    }
}

/// Counts a connection while it lives.
struct OpenConnection(Arc<Counters>);

impl OpenConnection {
    fn count(counters: &Arc<Counters>) -> Self {
        counters.connection_opened();
        Self(Arc::clone(counters))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}
