//! What an instance's HTTP status means for a batch.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::Failure;
use super::connection::HttpReply;
use crate::call::{Fault, FaultKind, Refusal};

/// The longest that an instance may ask to be left alone: beyond it, it is asked again anyway.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The most of an instance's text that goes into a message.
const MAX_TEXT: usize = 500;

/// What a batch failed of that was answered with a status other than success.
pub(super) fn failure_of(reply: &HttpReply) -> Failure {
    let status = reply.status;
    let body = reply.bytes();
    let described = || format!("the instance answered {}: {}", status.as_u16(), text_of(&body));
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Failure::overload(described(), retry_after(&reply.headers))
        }
        // The model has no such thing, and will not have it for the next call either.
        StatusCode::NOT_IMPLEMENTED => refused(reply, body),
        _ if status.is_client_error() => refused(reply, body),
        _ => Failure::broken(described()),
    }
}

fn refused(reply: &HttpReply, body: Bytes) -> Failure {
    let fault = Fault::new(FaultKind::Refused, text_of(&body));
    Failure::refused(fault.with_refusal(refusal_of(reply, body)))
}

/// A failure of the instance, whose own words the caller is to hear.
pub(super) fn broken_with_words(reply: &HttpReply) -> Failure {
    let body = reply.bytes();
    let text = text_of(&body);
    let mut failure =
        Failure::broken(format!("the instance answered {}: {text}", reply.status.as_u16()));
    failure.fault = failure.fault.with_refusal(refusal_of(reply, body));
    failure
}

fn refusal_of(reply: &HttpReply, body: Bytes) -> Refusal {
    let content_type = reply.headers.get(CONTENT_TYPE);
    Refusal {
        http: Some(reply.status),
        grpc: None,
        body: Some(body),
        content_type: content_type.and_then(|value| value.to_str().ok()).map(str::to_owned),
    }
}

/// What callers hear when an instance says nothing.
pub(super) const NO_REASON: &str = "the instance gave no reason";

/// The text of an error: KServe's `error`, OpenAI's `error.message`, FastAPI's `detail`, else the
/// body itself; never empty.
fn text_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Document {
        error: Option<ErrorDocument>,
        detail: Option<String>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ErrorDocument {
        Text(String),
        Object { message: String },
    }
    let document = serde_json::from_slice::<Document>(body).ok();
    let text = document.and_then(|document| match document.error {
        Some(ErrorDocument::Text(text) | ErrorDocument::Object { message: text }) => Some(text),
        None => document.detail.or(document.message),
    });
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None if text.is_empty() => NO_REASON.to_owned(),
        None => text,
    }
}

/// When a server wants to be asked again: `retry-after-ms`, or `retry-after` in seconds or as a
/// date.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(|text| text.parse().ok());
    let seconds = |text: &str| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    };
    millis
        .map(Duration::from_millis)
        .or_else(|| text(RETRY_AFTER.as_str()).and_then(seconds))
        .map(|after| after.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::lane::Blame;

    fn reply(status: u16, body: &'static str) -> HttpReply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        HttpReply {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from_static(body.as_bytes()).into(),
        }
    }

    #[test]
    fn every_status_has_its_blame() {
        for (status, blame) in [
            (400, Blame::Refused),
            (404, Blame::Refused),
            (413, Blame::Refused),
            (422, Blame::Refused),
            (501, Blame::Refused),
            (429, Blame::Overload { retry_after: None }),
            (503, Blame::Overload { retry_after: None }),
            (500, Blame::Broken),
            (502, Blame::Broken),
            (302, Blame::Broken),
        ] {
            assert_eq!(failure_of(&reply(status, "no")).blame, blame, "{status}");
        }
    }

    #[test]
    fn a_refusal_keeps_status_body_and_content_type() {
        let body = r#"{"error":"unexpected shape"}"#;
        let fault = failure_of(&reply(422, body)).fault;
        assert_eq!(fault.message, "unexpected shape");
        let refusal = *fault.refusal.unwrap();
        assert_eq!(refusal.http, Some(StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(refusal.body.unwrap(), body);
        assert_eq!(refusal.content_type.unwrap(), "application/json");
    }

    #[test]
    fn the_text_of_an_error_is_found_and_bounded() {
        assert_eq!(text_of(br#"{"error":{"message":"m","type":"t"}}"#), "m");
        assert_eq!(text_of(br#"{"detail":"d"}"#), "d");
        assert_eq!(text_of(b" plain \n"), "plain");
        assert_eq!(
            (text_of(b" "), text_of(br#"{"error":""}"#)),
            (NO_REASON.into(), NO_REASON.into())
        );
        assert!(text_of("ü".repeat(10_000).as_bytes()).len() < 2 * MAX_TEXT + 9);
    }

    #[test]
    fn retry_after_is_read_in_every_form_and_bounded() {
        let after = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(after("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(after("retry-after", "86400"), Some(MAX_RETRY_AFTER));
        assert_eq!(after("retry-after", "soon"), None);
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(after("retry-after", past), Some(Duration::ZERO));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        let wait = after("retry-after", &date).unwrap();
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30));
    }
}
