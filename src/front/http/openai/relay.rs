//! Answers that are forwarded as they come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    SET_COOKIE, USER_AGENT,
};
use http_body::Frame;
use http_body_util::BodyExt as _;

use super::super::problem;
use crate::call::{Fault, FaultKind, Refusal, RelayAnswer, RelayBody};

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

/// The reply that carries an instance's answer.
///
/// # Errors
/// When the answer is that the instance refuses the request.
pub(super) async fn respond(answer: RelayAnswer) -> Result<Response, Fault> {
    let RelayAnswer { status, mut headers, body } = answer;
    if !status.is_success() {
        return Err(refused(status, &headers, body).await);
    }
    headers.remove(SET_COOKIE);
    if !is_event_stream(&headers) {
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        return Ok(response);
    }
    // An error may still be appended.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    let mut response = Response::new(Body::new(EventStream::new(body)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.trim_start().starts_with("text/event-stream"))
}

async fn refused(status: http::StatusCode, headers: &HeaderMap, body: RelayBody) -> Fault {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body = read_error(body).await;
    let kind = if status.is_client_error() { FaultKind::Refused } else { FaultKind::Upstream };
    let message = format!("the instance answered with status {status}");
    let fault = Fault::new(kind, message);
    if kind == FaultKind::Upstream {
        return fault;
    }
    fault.with_refusal(Refusal {
        http: Some(status),
        grpc: None,
        body,
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

/// A stream of events, forwarded as it comes. When it breaks, the last event is an error and there
/// is no `[DONE]`, so that no client takes what it has for the whole.
struct EventStream {
    inner: Option<RelayBody>,
    /// The last two bytes that were forwarded.
    tail: [u8; 2],
}

impl EventStream {
    fn new(inner: RelayBody) -> Self {
        Self { inner: Some(inner), tail: *b"\n\n" }
    }

    fn remember(&mut self, data: &Bytes) {
        match data.as_ref() {
            [.., before, last] => self.tail = [*before, *last],
            [only] => self.tail = [self.tail[1], *only],
            [] => {}
        }
    }

    /// The event that tells of the break, on a line of its own.
    fn break_off(&mut self, error: &(dyn std::error::Error + Send + Sync)) -> Bytes {
        self.inner = None;
        let message = format!("the instance's stream broke off: {error}");
        let event = problem::event(&Fault::new(FaultKind::Upstream, message));
        let gap: &[u8] = match self.tail {
            [b'\n', b'\n'] | [b'\r', b'\r'] => b"",
            _ => b"\n\n",
        };
        [gap, &event].concat().into()
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(inner).poll_frame(context)) {
            None => {
                self.inner = None;
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
            Some(Err(error)) => Frame::data(self.break_off(error.as_ref())),
        };
        if let Some(data) = frame.data_ref() {
            self.remember(data);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::StreamBody;

    use super::*;

    type Piece = Result<&'static str, &'static str>;

    fn answer(status: u16, content_type: &str, pieces: Vec<Piece>) -> RelayAnswer {
        let frames = pieces.into_iter().map(|piece| match piece {
            Ok(data) => Ok(Frame::data(Bytes::from_static(data.as_bytes()))),
            Err(error) => Err(error.into()),
        });
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let headers = [
            (CONTENT_TYPE, content_type.parse().unwrap()),
            (CONTENT_LENGTH, "999".parse().unwrap()),
            (HeaderName::from_static("openai-model"), "m".parse().unwrap()),
        ];
        RelayAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.into_iter().collect(),
            body: body.boxed_unsync(),
        }
    }

    async fn text(response: Response) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_stream_goes_through_untouched() {
        let pieces = vec![Ok("data: {\"a\""), Ok(":1}\r\n\r\n: hm\n\n"), Ok("data: [DONE]\n\n")];
        let response =
            respond(answer(200, "text/event-stream; charset=utf-8", pieces)).await.unwrap();
        let headers = response.headers();
        assert_eq!(headers[CACHE_CONTROL], "no-cache");
        assert_eq!(headers[X_ACCEL_BUFFERING], "no");
        assert_eq!(headers["openai-model"], "m");
        assert!(!headers.contains_key(CONTENT_LENGTH));
        let expected = "data: {\"a\":1}\r\n\r\n: hm\n\ndata: [DONE]\n\n";
        assert_eq!(text(response).await, expected);
    }

    #[tokio::test]
    async fn a_broken_stream_ends_with_an_error_on_a_line_of_its_own() {
        for (pieces, start) in [
            (vec![Ok("data: 1\n\n"), Err("reset")], "data: 1\n\ndata: {\"error\":{"),
            (
                vec![Ok("data: 1\n\ndata: {"), Err("reset"), Ok("more")],
                "data: 1\n\ndata: {\n\ndata: {\"error\":{",
            ),
            (vec![Err("reset")], "data: {\"error\":{"),
        ] {
            let response = respond(answer(200, "text/event-stream", pieces)).await.unwrap();
            let text = text(response).await;
            assert!(text.starts_with(start) && text.ends_with("}}\n\n"), "{text}");
            assert!(text.contains("reset") && !text.contains("[DONE]") && !text.contains("more"));
            let event = text.trim_end().rsplit_once("data: ").unwrap().1;
            let event: serde_json::Value = serde_json::from_str(event).unwrap();
            for key in ["message", "type", "param", "code"] {
                assert!(event["error"].get(key).is_some(), "{event}");
            }
        }
    }

    #[tokio::test]
    async fn an_error_of_the_instance_is_a_fault() {
        let fault = respond(answer(404, "text/plain", vec![Ok("no")])).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Refused);
        assert_eq!(fault.refusal.unwrap().body.unwrap(), "no");
        let broken = respond(answer(500, "text/plain", vec![Ok("no")])).await.unwrap_err();
        assert_eq!(broken.kind, FaultKind::Upstream);
    }

    #[test]
    fn secrets_and_connection_headers_stay_here() {
        let headers: HeaderMap = [
            ("authorization", "Bearer x"),
            ("cookie", "x"),
            ("host", "x"),
            ("content-type", "application/json"),
            ("openai-beta", "x"),
        ]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect();
        let kept = headers_for_instance(&headers);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "openai-beta"]);
    }
}
