//! A client as good clients are: it asks one question a call, checks the answer to that very
//! question, connects anew where a connection has ended, and sends again only what was never sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::Failure;
use batchwise::wire::pb;

/// A call that has no answer by then has failed.
const CALL_BOUND: Duration = Duration::from_secs(40);
/// How often a request is given to a connection that turns out to have ended.
const CONNECTIONS_TRIED: u32 = 4;

const WINDOW_BYTES: u32 = 16 << 20;

/// A call of the model `linear` with one row and two columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// What is asked: the right answer is 2x + 1. Whole numbers below 2^23 have exact ones.
    pub x: f32,
    /// The second column: what model servers can be told to stumble over, in calls that are else
    /// all different.
    pub mark: f32,
    /// The priority; `None`: the proxy's default.
    pub priority: Option<u8>,
}

impl Question {
    /// The right answer's row.
    pub fn answer(self) -> [f32; 2] {
        [self.x, self.mark].map(|column| 2.0 * column + 1.0)
    }
}

fn row([x, mark]: [f32; 2]) -> [u8; 8] {
    let mut bytes = [0; 8];
    let (first, second) = bytes.split_at_mut(4);
    first.copy_from_slice(&x.to_le_bytes());
    second.copy_from_slice(&mark.to_le_bytes());
    bytes
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The right answer.
    Right,
    /// An answer, but to another question.
    Wrong(String),
    /// None: why, in few different words, and in full.
    Failed {
        /// The gRPC status and `x-batchwise-reason`, or what happened to the connection.
        reason: String,
        /// All that was said.
        message: String,
    },
}

impl Outcome {
    /// A call that failed without a word from the other side.
    pub fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self::Failed { reason: reason.to_owned(), message: message.into() }
    }
}

/// Asks over some HTTP/2 connections.
#[derive(Debug)]
pub struct Asker {
    address: SocketAddr,
    uri: http::Uri,
    connections: Vec<Mutex<Option<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    /// What drives it, and ends with it.
    task: JoinSet<()>,
}

impl Asker {
    /// An asker that connects when it has something to ask.
    pub fn new(address: SocketAddr, connections: usize) -> Result<Arc<Self>, Failure> {
        let uri = format!("http://{address}/inference.GRPCInferenceService/ModelInfer").parse()?;
        let connections = (0..connections.max(1)).map(|_| Mutex::default()).collect();
        Ok(Arc::new(Self { address, uri, connections }))
    }

    /// Asks over the connection of this number, bounded in time.
    pub async fn ask(&self, question: Question, connection: usize) -> Outcome {
        match tokio::time::timeout(CALL_BOUND, self.exchange(question, connection)).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => Outcome::failed("no answer", format!("none within {CALL_BOUND:?}")),
        }
    }

    async fn exchange(&self, question: Question, connection: usize) -> Result<Outcome, Outcome> {
        let mut request = self.request(question)?;
        for _ in 0..CONNECTIONS_TRIED {
            let mut sender = self.sender(connection).await?;
            match sender.try_send_request(request).await {
                Ok(response) => return judge(response, question).await,
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => {
                        let message = in_full(failed.error());
                        return Err(Outcome::failed("connection lost", message));
                    }
                },
            }
        }
        Err(Outcome::failed("not sent", "every connection ended before the request"))
    }

    fn request(&self, question: Question) -> Result<Request<Full<Bytes>>, Outcome> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
        if let Some(priority) = question.priority {
            request = request.header("x-request-priority", u64::from(priority));
        }
        let failed = |error: http::Error| Outcome::failed("no request", error.to_string());
        request.body(Full::new(frame(question))).map_err(failed)
    }

    async fn sender(&self, number: usize) -> Result<http2::SendRequest<Full<Bytes>>, Outcome> {
        let slot = self.connections.get(number % self.connections.len());
        let slot = slot.ok_or_else(|| Outcome::failed("no connection", ""))?;
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok(open.sender.clone());
        }
        let connection = open(self.address).await;
        let connection =
            connection.map_err(|error| Outcome::failed("not connected", error.to_string()))?;
        let sender = connection.sender.clone();
        if let Some(mut old) = slot.replace(connection) {
            // It may still carry answers; it ends by itself.
            old.task.detach_all();
        }
        Ok(sender)
    }
}

async fn open(address: SocketAddr) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { sender, task })
}

/// A gRPC frame around the request for one row.
fn frame(question: Question) -> Bytes {
    let request = pb::ModelInferRequest {
        model_name: "linear".to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::copy_from_slice(&row([question.x, question.mark]))],
        ..Default::default()
    };
    let length = request.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&request.encode_to_vec());
    frame.freeze()
}

async fn judge(response: Response<Incoming>, question: Question) -> Result<Outcome, Outcome> {
    if let Some(refused) = refusal(response.headers(), response.headers()) {
        return Err(refused);
    }
    let (head, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.map_err(|error| Outcome::failed("answer broken off", in_full(&error)))?;
    match body.trailers() {
        Some(trailers) => match refusal(trailers, &head.headers) {
            Some(refused) => return Err(refused),
            None if trailers.contains_key("grpc-status") => {}
            None => return Err(Outcome::failed("no grpc-status", "")),
        },
        None => return Err(Outcome::failed("no trailers", format!("{}", head.status))),
    }
    let frame = body.to_bytes();
    let message = frame.get(5..).map(|_| frame.slice(5..)).unwrap_or_default();
    let answer = pb::ModelInferResponse::decode(message)
        .map_err(|error| Outcome::Wrong(format!("no message: {error}")))?;
    let outputs: Vec<&[u8]> = answer.raw_output_contents.iter().map(AsRef::as_ref).collect();
    let right = row(question.answer());
    if outputs == [right.as_slice()] {
        return Ok(Outcome::Right);
    }
    Ok(Outcome::Wrong(format!("{outputs:?} to the {question:?}")))
}

fn refusal(status: &HeaderMap, head: &HeaderMap) -> Option<Outcome> {
    let text = |map: &HeaderMap, name: &str| {
        map.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let code = text(status, "grpc-status").filter(|code| code != "0")?;
    let said = text(status, "x-batchwise-reason").or_else(|| text(head, "x-batchwise-reason"));
    let reason = format!("gRPC {code} {}", said.unwrap_or_default());
    let message = text(status, "grpc-message").unwrap_or_default();
    let message = percent_decode_str(&message).decode_utf8_lossy().into_owned();
    Some(Outcome::Failed { reason: reason.trim_end().to_owned(), message })
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
