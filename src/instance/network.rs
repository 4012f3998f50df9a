//! How an instance is reached: over TCP, or over whatever network stands in for it.
//!
//! Clients ask a [`Network`] for connections and know nothing of sockets. So all of them can be driven
//! over a network that loses, delays and cuts on command, in the time of a clock that nobody waits for.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, Uri};
use hyper_util::client::legacy::connect::{self, CaptureConnection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;

use super::BoxFuture;
use crate::config::InstanceUrl;

/// How long a connection may take to come about: beyond it an instance is as good as gone.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a peer may be silent on the TCP level before it is asked whether it is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// How instances are reached.
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// Over TCP.
    #[default]
    Tcp,
    /// Over another network.
    Other(Arc<dyn Dial>),
}

/// A network that is not TCP.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// Makes a connection to a port of a host.
    fn dial(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// A connection over a network that is not TCP.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection for T {}

impl Network {
    /// Makes a connection to an instance, however long that takes.
    pub(super) async fn connect(&self, url: &InstanceUrl) -> io::Result<Link> {
        match self {
            Self::Tcp => {
                let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
                // A socket that refuses to be tuned still works.
                drop(stream.set_nodelay(true));
                let keepalive = socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE);
                drop(socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
                Ok(Link::Tcp(stream))
            }
            Self::Other(network) => network.dial(&url.host, url.port).await.map(Link::Other),
        }
    }
}

/// A connection to an instance.
pub(super) enum Link {
    Tcp(TcpStream),
    Other(Box<dyn Connection>),
}

macro_rules! delegate {
    ($self:ident, $link:ident => $call:expr) => {
        match $self.get_mut() {
            Link::Tcp($link) => {
                let $link = Pin::new($link);
                $call
            }
            Link::Other($link) => {
                let $link = Pin::new($link);
                $call
            }
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, link => link.poll_read(context, buffer))
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, link => link.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, link => link.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(link) => link.is_write_vectored(),
            Self::Other(link) => link.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, link => link.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, link => link.poll_shutdown(context))
    }
}

/// Whether a connection has brought a reply.
#[derive(Clone, Debug, Default)]
pub(super) struct Proven(Arc<AtomicBool>);

impl Proven {
    /// That of the connection that a request went over; `None` while it has none.
    pub(super) fn of(captured: &CaptureConnection) -> Option<Self> {
        let mut extensions = Extensions::new();
        captured.connection_metadata().as_ref()?.get_extras(&mut extensions);
        extensions.remove()
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl connect::Connection for Link {
    fn connected(&self) -> connect::Connected {
        let connected = match self {
            Self::Tcp(link) => link.connected(),
            Self::Other(_) => connect::Connected::new(),
        };
        connected.extra(Proven::default())
    }
}

/// Makes the connections of a pooled client.
#[derive(Clone, Debug)]
pub(super) enum Connector {
    Tcp(HttpConnector),
    Other(Arc<dyn Dial>, Arc<InstanceUrl>),
}

impl Connector {
    /// Connects to the instance at `url`.
    pub(super) fn new(network: &Network, url: &InstanceUrl) -> Self {
        match network {
            Network::Tcp => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                connector.set_keepalive(Some(TCP_KEEPALIVE));
                Self::Tcp(connector)
            }
            Network::Other(network) => Self::Other(Arc::clone(network), Arc::new(url.clone())),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Tcp(connector) => connector.poll_ready(context).map_err(Into::into),
            Self::Other(..) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Tcp(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { Ok(TokioIo::new(Link::Tcp(connecting.await?.into_inner()))) })
            }
            Self::Other(network, url) => {
                let connecting = network.dial(&url.host, url.port);
                Box::pin(async move {
                    let link = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
                    Ok(TokioIo::new(Link::Other(link)))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_written_to_instances_leaves_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, port) = ("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
        let url = InstanceUrl { host, port, path_prefix: String::new() };
        let uri = Uri::try_from(format!("http://127.0.0.1:{port}")).unwrap();
        let pooled = Connector::new(&Network::Tcp, &url).call(uri).await.unwrap().into_inner();
        let own = Network::Tcp.connect(&url).await.unwrap();
        for link in [pooled, own] {
            let Link::Tcp(stream) = link else { panic!("not over TCP") };
            assert!(stream.nodelay().unwrap());
        }
    }
}
