//! Calls as cheap as they can be: prepared request bytes over a few connections, answers checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Failure;
use batchwise::wire::pb;

/// A call that has no answer by then has failed.
const CALL_BOUND: Duration = Duration::from_secs(30);

/// Different calls that are prepared; they take turns.
const VARIANTS: u16 = 256;

const WINDOW_BYTES: u32 = 16 << 20;

/// What is spoken to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// KServe v2 over gRPC.
    Grpc,
    /// KServe v2 over HTTP/1.1 with JSON tensors.
    Http,
}

/// Calls the model `linear` with one row of FP32 and checks that the answer is 2x + 1.
#[derive(Debug)]
pub struct Caller {
    transport: Transport,
    uri: http::Uri,
    bodies: Vec<Bytes>,
    /// The connections, which end with the caller.
    _connections: JoinSet<()>,
}

#[derive(Debug)]
enum Transport {
    Grpc(Vec<http2::SendRequest<Full<Bytes>>>),
    Http(Box<Client<HttpConnector, Full<Bytes>>>),
}

impl Caller {
    /// Opens the connections. HTTP/1.1 opens as many as calls are under way instead.
    pub async fn connect(
        protocol: Protocol,
        address: SocketAddr,
        connections: usize,
        columns: usize,
    ) -> Result<Arc<Self>, Failure> {
        let mut tasks = JoinSet::new();
        let (transport, path, body): (_, _, fn(u16, usize) -> Bytes) = match protocol {
            Protocol::Grpc => {
                let mut senders = Vec::new();
                for _ in 0..connections.max(1) {
                    senders.push(open(address, &mut tasks).await?);
                }
                let path = "/inference.GRPCInferenceService/ModelInfer";
                (Transport::Grpc(senders), path, grpc_body)
            }
            Protocol::Http => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                let client = Client::builder(TokioExecutor::new()).build(connector);
                (Transport::Http(Box::new(client)), "/v2/models/linear/infer", json_body)
            }
        };
        let uri = format!("http://{address}{path}").parse()?;
        let bodies = (0..VARIANTS).map(|variant| body(variant, columns)).collect();
        Ok(Arc::new(Self { transport, uri, bodies, _connections: tasks }))
    }

    /// The call number `index`: bounded in time, its answer checked.
    pub async fn call(&self, index: usize) -> Result<(), String> {
        match tokio::time::timeout(CALL_BOUND, self.exchange(index)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {CALL_BOUND:?}")),
        }
    }

    async fn exchange(&self, index: usize) -> Result<(), String> {
        let variant = index % usize::from(VARIANTS);
        let body = self.bodies.get(variant).cloned().unwrap_or_default();
        let request = Request::builder().method(Method::POST).uri(self.uri.clone());
        let expected = 2.0 * variant as f32 + 1.0;
        match &self.transport {
            Transport::Grpc(senders) => {
                let request = request
                    .header(header::CONTENT_TYPE, "application/grpc")
                    .header(header::TE, "trailers")
                    .body(Full::new(body))
                    .map_err(|error| error.to_string())?;
                let Some(sender) = senders.get(index % senders.len()) else {
                    return Err("no connection".to_owned());
                };
                let response = sender.clone().send_request(request).await;
                let response = response.map_err(|error| error.to_string())?;
                check_grpc(response, expected).await
            }
            Transport::Http(client) => {
                let request = request
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Full::new(body))
                    .map_err(|error| error.to_string())?;
                let response = client.request(request).await.map_err(|error| error.to_string())?;
                check_http(response, expected).await
            }
        }
    }
}

async fn open(
    address: SocketAddr,
    tasks: &mut JoinSet<()>,
) -> Result<http2::SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await?;
    tasks.spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn check_grpc(
    response: http::Response<hyper::body::Incoming>,
    expected: f32,
) -> Result<(), String> {
    refuse_grpc_failure(response.headers())?;
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    match body.trailers() {
        Some(trailers) => refuse_grpc_failure(trailers)?,
        None => return Err("the answer has no trailers".to_owned()),
    }
    let frame = body.to_bytes();
    let message = frame.get(5..).map(|_| frame.slice(5..)).unwrap_or_default();
    let answer =
        pb::ModelInferResponse::decode(message).map_err(|error| format!("no answer: {error}"))?;
    let first = answer.raw_output_contents.first().and_then(|raw| raw.first_chunk().copied());
    check(first.map(f32::from_le_bytes), expected)
}

fn refuse_grpc_failure(headers: &HeaderMap) -> Result<(), String> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => {
            Err(format!("gRPC status {status:?}: {:?}", headers.get("grpc-message")))
        }
        _ => Ok(()),
    }
}

async fn check_http(
    response: http::Response<hyper::body::Incoming>,
    expected: f32,
) -> Result<(), String> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    let body = body.to_bytes();
    if !status.is_success() {
        return Err(format!("HTTP {status}: {}", String::from_utf8_lossy(&body)));
    }
    let answer: serde_json::Value =
        serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let first = answer.pointer("/outputs/0/data").and_then(|data| {
        let data = data.get(0)?;
        data.get(0).unwrap_or(data).as_f64()
    });
    check(first.map(|first| first as f32), expected)
}

fn check(found: Option<f32>, expected: f32) -> Result<(), String> {
    if found == Some(expected) {
        return Ok(());
    }
    Err(format!("wrong answer: {found:?} instead of {expected}"))
}

fn grpc_body(variant: u16, columns: usize) -> Bytes {
    let row = f32::from(variant).to_le_bytes().repeat(columns);
    let request = pb::ModelInferRequest {
        model_name: "linear".to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, i64::try_from(columns).unwrap_or(i64::MAX)],
            ..Default::default()
        }],
        raw_input_contents: vec![row.into()],
        ..Default::default()
    };
    let length = request.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&request.encode_to_vec());
    frame.freeze()
}

fn json_body(variant: u16, columns: usize) -> Bytes {
    let body = serde_json::json!({
        "inputs": [{
            "name": "x", "datatype": "FP32", "shape": [1, columns], "data": vec![variant; columns],
        }],
    });
    body.to_string().into()
}
