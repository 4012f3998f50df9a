//! Where the connections of callers come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Where the connections of callers come from: TCP, or whatever stands in for it.
pub trait Listener: Send + Sized + 'static {
    /// A connection of a caller.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Dropping the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// Where callers find it.
    ///
    /// # Errors
    /// When that cannot be told.
    fn address(&self) -> io::Result<SocketAddr>;
}

impl Listener for TcpListener {
    type Connection = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Small frames must not wait for acknowledgements of earlier ones.
        drop(stream.set_nodelay(true));
        Ok(stream)
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_to_callers_leaves_at_once() {
        let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.address().unwrap());
        let (caller, accepted) = tokio::join!(caller, Listener::accept(&mut listener));
        assert!(caller.is_ok() && accepted.unwrap().nodelay().unwrap());
    }
}
