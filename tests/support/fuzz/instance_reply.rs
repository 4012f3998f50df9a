//! What instances answer, read by the clients themselves over the loopback: the first line of the
//! input is the protocol and the status, then come lines of headers, an empty line, and the body. Over
//! gRPC headers whose names begin with `grpc-` are trailers.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchwise::call::{Answer, InferRequest, ItemsRequest, ItemsRoute, RelayRequest, Work};
use batchwise::config::InstanceUrl;
use batchwise::instance::{
    BatchContext, Failure, Instance, KserveGrpc, KserveHttp, KserveV1, OpenAi,
};
use batchwise::lane::Blame;
use batchwise::tensor::{DataType, Shape, Tensor};
use batchwise::wire::body::RopeBody;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HOST, HeaderMap, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::{check, input};

/// Longer than anything here takes unless it hangs.
const BOUND: Duration = Duration::from_secs(10);
/// The longest that an instance may ask to be left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

/// A server that always gives the same reply, and a client of each protocol.
struct Peer {
    runtime: Runtime,
    reply: Arc<Mutex<Reply>>,
    tensors_http: KserveHttp,
    tensors_grpc: KserveGrpc,
    items: KserveV1,
    text: OpenAi,
}

thread_local! {
    // Leaked: a runtime does not like to be dropped when its thread ends.
    static PEER: &'static Peer = Box::leak(Box::new(Peer::start()));
}

/// See the module.
pub fn instance_reply(data: &[u8]) {
    let (line, rest) = input::first_line_text(data);
    let Some((protocol, status)) = line.split_once(' ') else { return };
    let Some(status) = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()) else {
        return;
    };
    let (mut headers, body) = input::headers(rest);
    // What frames a message is the server's own to say, and has been read by others.
    for own in [CONNECTION, CONTENT_LENGTH, DATE, HOST, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(own);
    }
    if status.is_informational() || headers.contains_key("keep-alive") {
        return;
    }
    let mut trailers = HeaderMap::new();
    if protocol == "grpc" {
        for name in ["grpc-status", "grpc-message", "grpc-retry-pushback-ms"] {
            let values: Vec<_> = headers.get_all(name).iter().cloned().collect();
            headers.remove(name);
            values.into_iter().for_each(|value| {
                trailers.append(http::HeaderName::from_static(name), value);
            });
        }
    }
    let reply = Reply { status, headers, body: Bytes::copy_from_slice(body), trailers };
    PEER.with(|peer| peer.ask(protocol, reply));
}

impl Peer {
    fn ask(&self, protocol: &str, reply: Reply) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = reply;
        let (instance, work): (&dyn Instance, Work) = match protocol {
            "http" => (&self.tensors_http, tensors()),
            "grpc" => (&self.tensors_grpc, tensors()),
            "v1" => (&self.items, items(ItemsRoute::Predict)),
            "embeddings" => (&self.text, items(ItemsRoute::Embeddings)),
            "relay" => (&self.text, relay()),
            _ => return,
        };
        let context = BatchContext {
            request_id: "a-1".to_owned(),
            deadline: Instant::now() + BOUND,
            trace: None,
        };
        self.runtime.block_on(async {
            let all = async {
                match instance.run(work, context).await {
                    Ok(answer) => answered(answer).await,
                    Err(failure) => failed(&failure),
                }
                let probed = instance.probe().await.map_err(|trouble| trouble.to_string());
                for said in [probed, instance.describe().await.map(drop)] {
                    assert!(said.is_ok() || said.is_err_and(|message| !message.is_empty()));
                }
            };
            tokio::time::timeout(BOUND, all).await.expect("a reply that is there is read");
        });
    }

    fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().expect("a runtime");
        let reply = Arc::new(Mutex::new(Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            trailers: HeaderMap::new(),
        }));
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("a port of the loopback");
        let port = listener.local_addr().expect("its address").port();
        runtime.spawn(serve(listener, Arc::clone(&reply)));
        let url = InstanceUrl { host: "127.0.0.1".to_owned(), port, path_prefix: String::new() };
        Self {
            runtime,
            reply,
            tensors_http: KserveHttp::new(url.clone(), "m", None),
            tensors_grpc: KserveGrpc::new(url.clone(), "m"),
            items: KserveV1::new(url.clone(), "m", None),
            text: OpenAi::new(url, "m", None),
        }
    }
}

async fn serve(listener: TcpListener, reply: Arc<Mutex<Reply>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let reply = Arc::clone(&reply);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move {
                // A request that is not read to its end takes its connection with it.
                drop(request.into_body().collect().await);
                let body = RopeBody::new(reply.body.into());
                let body = match reply.trailers.is_empty() {
                    true => body,
                    false => body.with_trailers(reply.trailers),
                };
                let mut response = Response::new(body);
                *response.status_mut() = reply.status;
                *response.headers_mut() = reply.headers;
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(async move {
            let connection = Builder::new(TokioExecutor::new());
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answered(answer: Answer) {
    match answer {
        Answer::Infer(answer) => check::tensors(&answer.outputs),
        Answer::Items(answer) => {
            assert_eq!(answer.items.len(), 2);
            answer.items.iter().for_each(|item| check::is_json(item));
        }
        Answer::Relay(mut answer) => {
            assert!(!answer.headers.contains_key(CONNECTION));
            while let Some(frame) = Pin::new(&mut answer.body).frame().await {
                drop(frame.expect("a body that is there is read"));
            }
        }
    }
}

fn failed(failure: &Failure) {
    assert!(!failure.fault.message.is_empty(), "{failure:?}");
    // The connection is sound: whatever comes over it is not its fault, unless it is no HTTP.
    if let Blame::Overload { retry_after: Some(after) } = failure.blame {
        assert!(Duration::from(after) <= LONGEST_PAUSE, "{failure:?}");
    }
}

fn tensors() -> Work {
    let shape = Shape::from(&[2][..]);
    let input = Tensor::new("x", DataType::Int8, shape, vec![1, 2].into()).expect("two elements");
    Work::Infer(InferRequest { inputs: vec![input], ..InferRequest::default() })
}

fn items(route: ItemsRoute) -> Work {
    let items = vec![Bytes::from_static(b"\"a\""), Bytes::from_static(b"\"b\"")];
    Work::Items(ItemsRequest { route, items, options: Bytes::new(), body: None })
}

fn relay() -> Work {
    let body = Bytes::from_static(b"{\"model\":\"m\",\"stream\":true}");
    let path = "/v1/chat/completions";
    Work::Relay(RelayRequest {
        affinity: None,
        path,
        headers: HeaderMap::new(),
        body,
        stream: true,
        can_be_named: true,
        with_usage: None,
    })
}
