//! Callers that misbehave below the level of any client: bytes on a connection of HTTP/1.1, and
//! streams of HTTP/2 that stop in the middle.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::stage::BOUND;

/// What came back over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A connection of HTTP/1.1, byte by byte.
pub(crate) struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// A connection on which little fits that was not read.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), unread: Vec::new() }
    }

    /// Sends bytes; what the peer makes of it shows in its reply.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.stream.write_all(bytes.as_ref()).await);
    }

    /// The head of a POST, with further headers.
    pub(crate) async fn post(&mut self, path: &str, headers: &str) {
        self.send(format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}\r\n")).await;
    }

    /// The next reply, also one of 1xx.
    pub(crate) async fn reply(&mut self) -> RawReply {
        let end = |unread: &[u8]| unread.windows(4).position(|window| window == b"\r\n\r\n");
        while end(&self.unread).is_none() {
            assert!(self.more().await, "no reply: {:?}", String::from_utf8_lossy(&self.unread));
        }
        let rest = self.unread.split_off(end(&self.unread).unwrap() + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.filter_map(|line| line.split_once(": "));
        let headers: HeaderMap = fields
            .map(|(name, value)| {
                (http::HeaderName::try_from(name).unwrap(), value.parse().unwrap())
            })
            .collect();
        let length = headers.get("content-length");
        let length = length.map_or(0, |length| length.to_str().unwrap().parse().unwrap());
        while self.unread.len() < length {
            assert!(self.more().await, "the reply broke off");
        }
        let rest = self.unread.split_off(length);
        let body = String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
        RawReply { status, headers, body }
    }

    /// Whether the peer has closed the connection, which it is given time for.
    pub(crate) async fn is_closed(&mut self) -> bool {
        assert!(self.unread.is_empty(), "{:?}", String::from_utf8_lossy(&self.unread));
        !self.more().await
    }

    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.unread);
        matches!(tokio::time::timeout(BOUND, read).await.expect("nothing came"), Ok(1..))
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that consists of `pieces` and then does not end.
pub(crate) fn endless(pieces: Vec<Bytes>) -> Body {
    let pieces = futures_util::stream::iter(pieces).map(|piece| Ok(Frame::data(piece)));
    StreamBody::new(pieces.chain(futures_util::stream::pending())).boxed_unsync()
}

/// A body that is whole.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed_unsync()
}

/// The bytes of a gRPC message that announces to have `length` bytes.
pub(crate) fn prefixed(length: u32, message: &[u8]) -> Bytes {
    [&[0], length.to_be_bytes().as_slice(), message].concat().into()
}

/// A connection of HTTP/2 whose streams have windows of so many bytes.
pub(crate) struct Multiplexed {
    address: SocketAddr,
    sender: SendRequest<Body>,
    task: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Multiplexed {
    pub(crate) async fn open(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Self { address, sender, task: tokio::spawn(connection) }
    }

    /// Sends a request; the reply's head is awaited by whoever polls.
    pub(crate) fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let uri = Uri::try_from(format!("http://{}{path}", self.address)).unwrap();
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.send_request(request.body(body).unwrap())
    }

    /// A call of the inference service.
    pub(crate) fn call(
        &mut self,
        method: &str,
        body: Body,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        let path = format!("/inference.GRPCInferenceService/{method}");
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        self.post(&path, &headers, body)
    }
}

impl Drop for Multiplexed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The gRPC status of a reply, wherever it stands.
pub(crate) async fn grpc_status(response: Response<Incoming>) -> (String, HeaderMap) {
    let (head, body) = response.into_parts();
    let mut headers = head.headers;
    if let Some(trailers) = body.collect().await.unwrap().trailers() {
        headers.extend(trailers.clone());
    }
    (headers["grpc-status"].to_str().unwrap().to_owned(), headers)
}
