//! The layer around every inference call, below the protocols: it counts the call, notices a
//! caller that goes away, and stalls, refuses, garbles or cuts the call where told so.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::engine::Engine;
use super::settings::{DropMoment, FaultStatus};
use super::statistics::Counters;
use super::texts;

/// How a connection is to end by the server's will.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionCut {
    /// Close with a TCP reset.
    pub(super) reset: CancellationToken,
    /// Close after what is written has left.
    pub(super) close: CancellationToken,
}

/// Answers one request, faults included.
pub(super) async fn answer(
    engine: Arc<Engine>,
    router: axum::Router,
    cut: ConnectionCut,
    request: Request<Body>,
) -> Response<Body> {
    if !is_inference(request.uri().path()) {
        return route(router, request).await;
    }
    let call = CallGuard::begin(&engine.counters);
    let faults = engine.switches.draw();
    if let Some(fault) = faults.name() {
        engine.tell_struck(request.uri().path(), fault);
    }
    if faults.stall {
        return std::future::pending().await;
    }
    if faults.drop == Some(DropMoment::AtOnce) {
        return reset(&cut).await;
    }
    let style = ErrorStyle::of(&request);
    let mut response = match faults.refuse {
        Some(fault) => style.response(fault),
        None if faults.garbage => style.garbage(),
        None => route(router, request).await,
    };
    if faults.drop == Some(DropMoment::BeforeReply) {
        return reset(&cut).await;
    }
    if is_failure(&response) {
        engine.counters.call_failed();
    }
    if faults.drop == Some(DropMoment::MidReply) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        let cut = cut.close;
        response = response.map(|body| Body::new(CutBody { body, cut, pieces: 0 }));
    }
    response.map(|body| Body::new(GuardedBody { body, call: Some(call) }))
}

async fn route(router: axum::Router, request: Request<Body>) -> Response<Body> {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn reset(cut: &ConnectionCut) -> Response<Body> {
    cut.reset.cancel();
    std::future::pending().await
}

fn is_inference(path: &str) -> bool {
    let ends = ["/infer", ":predict", "/ModelInfer", "/ModelStreamInfer"];
    let routes = ["embeddings", "completions", "chat/completions"];
    ends.iter().any(|end| path.ends_with(end))
        || path.strip_prefix("/v1/").is_some_and(|route| routes.contains(&route))
        || texts::PATHS.contains(&path)
}

fn is_failure(response: &Response<Body>) -> bool {
    !response.status().is_success()
        || response.headers().get("grpc-status").is_some_and(|status| status != "0")
}

/// In which form a path's clients expect errors.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ErrorStyle {
    Grpc,
    Kserve,
    OpenAi,
    /// Of Text Embeddings Inference.
    Inference,
}

impl ErrorStyle {
    fn of(request: &Request<Body>) -> Self {
        let path = request.uri().path();
        if path.starts_with("/inference.") {
            Self::Grpc
        } else if path != "/v2/rerank" && path.starts_with("/v2/") || path.ends_with(":predict") {
            Self::Kserve
        } else if texts::NATIVE.contains(&path) {
            Self::Inference
        } else {
            Self::OpenAi
        }
    }

    fn response(self, fault: FaultStatus) -> Response<Body> {
        match self {
            Self::Grpc => tonic::Status::from(fault).into_http(),
            Self::Kserve => kserve_error(&fault),
            Self::OpenAi => openai_error(&fault),
            Self::Inference => inference_error(&fault),
        }
    }

    /// A success whose message cannot be decoded.
    fn garbage(self) -> Response<Body> {
        if self != Self::Grpc {
            return json_response(StatusCode::OK, "\u{1}{]garbage".to_owned());
        }
        // A complete gRPC frame around a protobuf varint that never ends.
        let frame = Bytes::from_static(b"\0\0\0\0\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let trailers = async move { Some(Ok(trailers)) };
        let body =
            http_body_util::BodyExt::with_trailers(http_body_util::Full::new(frame), trailers);
        let mut response = Response::new(Body::new(body));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }
}

pub(super) fn json_response(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// `{"error": MESSAGE}`
pub(super) fn kserve_error(fault: &FaultStatus) -> Response<Body> {
    error_response(fault, &serde_json::json!({ "error": fault.message }))
}

/// `{"error": MESSAGE, "error_type": TYPE}`
pub(super) fn inference_error(fault: &FaultStatus) -> Response<Body> {
    let kind = if fault.http < 500 { "Validation" } else { "Backend" };
    error_response(fault, &serde_json::json!({ "error": fault.message, "error_type": kind }))
}

/// `{"error": {"message", "type", "param", "code"}}`
pub(super) fn openai_error(fault: &FaultStatus) -> Response<Body> {
    let kind = match fault.http {
        429 => "requests",
        400..500 => "invalid_request_error",
        _ => "server_error",
    };
    let error = serde_json::json!({
        "message": fault.message, "type": kind, "param": null, "code": null,
    });
    error_response(fault, &serde_json::json!({ "error": error }))
}

fn error_response(fault: &FaultStatus, body: &serde_json::Value) -> Response<Body> {
    let status = StatusCode::from_u16(fault.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, body.to_string());
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub(super) fn headers_as_text(headers: &HeaderMap) -> BTreeMap<String, String> {
    let entry = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().filter_map(entry).collect()
}

/// Counts a call as cancelled when dropped before its end.
struct CallGuard {
    counters: Arc<Counters>,
    finished: bool,
}

impl CallGuard {
    fn begin(counters: &Arc<Counters>) -> Self {
        counters.call_began();
        Self { counters: Arc::clone(counters), finished: false }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.counters.call_ended(!self.finished);
    }
}

/// Ends the call with its body.
struct GuardedBody {
    body: Body,
    call: Option<CallGuard>,
}

impl GuardedBody {
    fn finish(&mut self) {
        if let Some(mut call) = self.call.take() {
            call.finished = true;
        }
    }
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if last {
            self.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Asked before the first frame by servers that then never poll an empty body.
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for GuardedBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
    }
}

/// Lets half of a whole body pass, or three pieces of a stream, then has the connection closed.
struct CutBody {
    body: Body,
    cut: CancellationToken,
    pieces: u32,
}

/// Whole pieces of a stream that pass before the cut.
const PIECES_BEFORE_CUT: u32 = 3;

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.pieces >= PIECES_BEFORE_CUT {
            self.cut.cancel();
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                let whole = self.pieces == 0 && is_whole(&self.body, &data);
                self.pieces = if whole { PIECES_BEFORE_CUT } else { self.pieces + 1 };
                let passed = if whole { data.slice(..data.len() / 2) } else { data };
                Poll::Ready(Some(Ok(Frame::data(passed))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            // The end, or trailers that a cut reply must not get.
            Some(Ok(Err(_))) | None => {
                self.cut.cancel();
                Poll::Pending
            }
        }
    }
}

/// Whether the first frame is the entire answer: the body is at its end, or the frame is one
/// complete gRPC message (whose trailers are still to come).
fn is_whole(rest: &Body, first: &Bytes) -> bool {
    let framed = first.first_chunk::<5>().is_some_and(|prefix| {
        let [flag, length @ ..] = *prefix;
        flag == 0 && u32::from_be_bytes(length) as usize + 5 == first.len()
    });
    rest.is_end_stream() || framed
}
