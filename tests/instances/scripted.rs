//! A server whose every step the test decides: raw connections, and HTTP served by a closure.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A server that ends with its value.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    goaway: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Scripted {
    /// Serves raw connections, one after another.
    pub(crate) async fn raw<F, S>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::start(move |stream, _| serve(stream)).await
    }

    /// Serves HTTP/1.1 and HTTP/2 by a closure.
    pub(crate) async fn http<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start(move |stream, goaway| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let reply = answer(request);
                    async move { Ok::<_, Infallible>(reply.await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                tokio::pin!(connection);
                tokio::select! {
                    ended = &mut connection => drop(ended),
                    () = goaway.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        drop(connection.await);
                    }
                }
            }
        })
        .await
    }

    async fn start<F, S>(serve: F) -> Self
    where
        F: Fn(TcpStream, CancellationToken) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, goaway) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (counted, told) = (Arc::clone(&connections), goaway.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // Only connections that are there already are told to go away.
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let goaway = if number == 0 { told.clone() } else { CancellationToken::new() };
                serving.spawn(serve(stream, goaway));
            }
        });
        Self { address, connections, goaway, _tasks: tasks }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Tells the first connection to go away once its requests are answered.
    pub(crate) fn go_away(&self) {
        self.goaway.cancel();
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}
