//! Answers that are forwarded as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, SET_COOKIE, USER_AGENT,
};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::event_stream::EventStream;
use crate::call::{Fault, FaultKind, Refusal, RelayAnswer, RelayBody, SharedSpan};
use crate::engine::Model;
use crate::instance::retry_after;
use crate::telemetry::ModelMetrics;
use crate::wire::openai::UsageScan;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How much of an instance's error is read.
const LONGEST_ERROR: usize = 1 << 20;

/// The headers of a caller that mean something to an instance. Others stay here: they speak of this
/// connection, or are secrets that were meant for this server.
pub(super) fn headers_for_instance(headers: &HeaderMap) -> HeaderMap {
    let forwarded = [
        ACCEPT,
        CONTENT_TYPE,
        USER_AGENT,
        HeaderName::from_static("openai-beta"),
        HeaderName::from_static("openai-organization"),
        HeaderName::from_static("openai-project"),
    ];
    let mut kept = HeaderMap::with_capacity(forwarded.len());
    for name in forwarded {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// How the answers of a model are relayed.
#[derive(Debug)]
pub(super) struct Relay {
    heartbeat: Option<Duration>,
    metrics: Arc<ModelMetrics>,
}

impl Relay {
    pub(super) fn of(model: &Model) -> Self {
        Self { heartbeat: model.plan().stream.heartbeat, metrics: Arc::clone(model.metrics()) }
    }
}

/// The reply that carries an instance's answer.
///
/// # Errors
/// When the answer is that the instance refuses the request.
pub(super) async fn respond(answer: RelayAnswer, relay: Relay) -> Result<Response, Fault> {
    let Relay { heartbeat, metrics } = relay;
    let RelayAnswer { status, mut headers, body, hides_usage, span } = answer;
    if !status.is_success() {
        return Err(refused(status, &headers, body).await);
    }
    headers.remove(SET_COOKIE);
    let body = if headers.contains_key(CONTENT_ENCODING) {
        // Nobody asked for it; whoever reads it has to look inside by himself.
        Body::new(body)
    } else if is_event_stream(&headers) {
        // Its length is not the instance's alone to say.
        headers.remove(CONTENT_LENGTH);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        Body::new(EventStream::new(body, hides_usage, heartbeat, metrics, span))
    } else {
        Body::new(CountedBody { body, scan: UsageScan::default(), metrics, span })
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.trim_start().starts_with("text/event-stream"))
}

async fn refused(status: StatusCode, headers: &HeaderMap, body: RelayBody) -> Fault {
    let kind = match status {
        StatusCode::SERVICE_UNAVAILABLE => FaultKind::Overloaded,
        _ if status.is_client_error() => FaultKind::Refused,
        _ => FaultKind::Upstream,
    };
    let message = format!("the instance answered with status {status}");
    let mut fault = Fault::new(kind, message);
    if kind == FaultKind::Upstream {
        return fault;
    }
    fault.retry_after = retry_after(headers);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    fault.with_refusal(Refusal {
        http: Some(status),
        grpc: None,
        body: read_error(body).await,
        content_type: content_type.map(str::to_owned),
    })
}

/// The body of an error; `None` when it breaks off or is longer than any explanation.
async fn read_error(mut body: RelayBody) -> Option<Bytes> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if whole.len() + data.len() > LONGEST_ERROR {
            return None;
        }
        whole.extend_from_slice(&data);
    }
    Some(whole.into())
}

/// A whole reply, forwarded frame by frame; what it says of its usage is counted.
struct CountedBody {
    body: RelayBody,
    scan: UsageScan,
    metrics: Arc<ModelMetrics>,
    span: SharedSpan,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.scan.feed(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        if let Some(usage) = self.scan.found() {
            self.metrics.count_tokens(usage.prompt, usage.completion);
            self.span.note_usage(usage.prompt, usage.completion);
        }
    }
}

#[cfg(test)]
mod tests;
