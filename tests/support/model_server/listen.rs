//! Accepting connections: HTTP/1.1 and HTTP/2 on every port, each connection under a cut switch.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
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

pub(super) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Accepts until `stop`, then ends every connection at once.
pub(super) async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    router: axum::Router,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&engine), router.clone()));
            }
            // Out of file descriptors, most likely: a pause instead of a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, engine: Arc<Engine>, router: axum::Router) {
    let _open = OpenConnection::count(&engine.counters);
    let _ = stream.set_nodelay(true);
    // The stream moves into hyper; its duplicate can still ask for a reset instead of a close.
    let Ok(duplicate) = stream.as_fd().try_clone_to_owned() else { return };
    let duplicate = socket2::Socket::from(duplicate);
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
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .max_concurrent_streams(MAX_STREAMS);
    tokio::select! {
        // The connection first: what a cut reply has written leaves before the cut.
        biased;
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = cut.reset.cancelled() => {
            let _ = duplicate.set_linger(Some(Duration::ZERO));
        }
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
