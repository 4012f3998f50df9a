//! Faults as replies, in the form of the caller's protocol.

use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::reply::JSON;
use crate::call::Fault;
use crate::front::retry;
use crate::wire::problem::{kserve_body, openai_body, openai_error};
use crate::wire::status::{Status, http_status, of_kind};

const REASON: HeaderName = HeaderName::from_static("x-batchwise-reason");

/// The protocol whose errors a caller understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{"error": "..."}`, which Text Embeddings Inference speaks, too.
    Kserve,
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
}

impl Dialect {
    /// Of a route that need not exist.
    pub(super) fn of_path(path: &str) -> Self {
        let is_predict = path.starts_with("/v1/models/") && path.ends_with(":predict");
        let is_v1 = path == "/v1" || path.starts_with("/v1/");
        let kin = ["/v2/rerank", "/rerank", "/score", "/classify"];
        if kin.contains(&path) || is_v1 && !is_predict { Dialect::OpenAi } else { Dialect::Kserve }
    }
}

/// A fault of a KServe route.
#[derive(Debug)]
pub(super) struct KserveFault(Fault);

/// A fault of an OpenAI route.
#[derive(Debug)]
pub(super) struct OpenAiFault(Fault);

impl From<Fault> for KserveFault {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl From<Fault> for OpenAiFault {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for KserveFault {
    fn into_response(self) -> Response {
        respond(Dialect::Kserve, &self.0)
    }
}

impl IntoResponse for OpenAiFault {
    fn into_response(self) -> Response {
        respond(Dialect::OpenAi, &self.0)
    }
}

/// The reply to a call that has no answer.
pub(super) fn respond(dialect: Dialect, fault: &Fault) -> Response {
    let table = of_kind(fault.kind);
    let status = http_status(fault);
    let body = match dialect {
        Dialect::Kserve => kserve_body(fault),
        Dialect::OpenAi => openai_body(fault),
    };
    let mut response = (status, body).into_response();
    write_headers(response.headers_mut(), fault, &table);
    // For the log, which is written where the request's id is known.
    response.extensions_mut().insert(fault.clone());
    response
}

fn write_headers(headers: &mut HeaderMap, fault: &Fault, table: &Status) {
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(REASON, HeaderValue::from_static(table.reason));
    retry::write(headers, fault);
}

/// A fault as the last event of a stream that cannot go on.
pub(super) fn event(fault: &Fault) -> Vec<u8> {
    let error = openai_error(fault);
    [b"data: ".as_slice(), &error, b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use http::StatusCode;

    use super::*;
    use crate::call::{FaultKind, Refusal};
    use crate::wire::problem::is_openai_error;

    async fn text(dialect: Dialect, fault: &Fault) -> (StatusCode, HeaderMap, String) {
        let (parts, body) = respond(dialect, fault).into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn refused(body: &str) -> Fault {
        Fault::new(FaultKind::Refused, "refused").with_refusal(Refusal {
            http: Some(StatusCode::UNPROCESSABLE_ENTITY),
            grpc: None,
            body: Some(body.to_owned().into()),
            content_type: None,
        })
    }

    #[tokio::test]
    async fn every_kind_has_all_keys_in_both_dialects() {
        use FaultKind::*;
        for kind in [
            InvalidRequest,
            UnknownModel,
            UnknownObject,
            UnknownRoute,
            MethodNotAllowed,
            Unimplemented,
            TooLarge,
            QueueFull,
            Shed,
            BuffersFull,
            Draining,
            NoInstance,
            Upstream,
            Overloaded,
            Deadline,
            Refused,
            Internal,
        ] {
            let fault = Fault::new(kind, "why \"so\"");
            let (status, headers, body) = text(Dialect::OpenAi, &fault).await;
            assert!(status.is_client_error() || status.is_server_error());
            assert_ne!(status, StatusCode::REQUEST_TIMEOUT);
            assert!(is_openai_error(&serde_json::from_str(&body).unwrap()), "{body}");
            assert!(headers.contains_key(REASON));
            assert_eq!(headers.contains_key("retry-after"), status == 503, "{kind:?}");
            let final_word = headers.get("x-should-retry").is_some_and(|it| it == "false");
            assert_eq!(final_word, status.is_client_error() || status == 501 || status == 504);
            let (_, _, body) = text(Dialect::Kserve, &fault).await;
            assert_eq!(body, r#"{"error":"why \"so\""}"#);
        }
    }

    #[tokio::test]
    async fn overload_says_when_to_come_back() {
        let fault = Fault::new(FaultKind::QueueFull, "full");
        let (_, headers, _) =
            text(Dialect::Kserve, &fault.with_retry_after(Duration::from_millis(1500))).await;
        assert_eq!(
            (&headers["retry-after"], &headers["retry-after-ms"]),
            (&"2".parse().unwrap(), &"1500".parse().unwrap())
        );
        assert!(!headers.contains_key("x-should-retry"));
        let (_, headers, _) = text(Dialect::Kserve, &Fault::deadline(Duration::ZERO)).await;
        assert_eq!(headers["x-should-retry"], "false");
    }

    #[tokio::test]
    async fn an_instances_own_words_are_passed_on_in_the_right_form() {
        let openai = r#"{"error":{"message":"m","type":"t","param":null,"code":null}, "x":1}"#;
        let (status, headers, body) = text(Dialect::OpenAi, &refused(openai)).await;
        assert_eq!((status.as_u16(), body.as_str()), (422, openai));
        assert_eq!(headers[REASON], "upstream_refused");
        assert_eq!(text(Dialect::Kserve, &refused(openai)).await.2, r#"{"error":"m"}"#);
        let kserve = r#"{ "error": "k" }"#;
        assert_eq!(text(Dialect::Kserve, &refused(kserve)).await.2, kserve);
        let expected = |words: &str| {
            format!(
                r#"{{"error":{{"message":"{words}","type":"invalid_request_error","param":null,"code":null}}}}"#
            )
        };
        let listed =
            r#"{"detail":[{"loc":["body","n"],"msg":"too small"},{"loc":[0],"msg":"no"}]}"#;
        for (body, words) in [
            (kserve, "k"),
            (r#"{"object":"error","message":"flat","code":400}"#, "flat"),
            (r#"{"detail":"fast"}"#, "fast"),
            (r#"{"error":{"message":"m","param":7,"code":7}}"#, "m"),
            (listed, "body.n: too small; 0: no"),
            ("plain text ", "plain text"),
            ("", "refused"),
        ] {
            assert_eq!(text(Dialect::OpenAi, &refused(body)).await.2, expected(words), "{body}");
        }
        let numbered =
            r#"{"error":{"message":"m","type":"BadRequestError","param":"n","code":400}}"#;
        assert_eq!(
            text(Dialect::OpenAi, &refused(numbered)).await.2,
            r#"{"error":{"message":"m","type":"BadRequestError","param":"n","code":null}}"#
        );
    }

    #[test]
    fn routes_have_the_dialect_of_their_family() {
        assert_eq!(Dialect::of_path("/v1/models/m:predict"), Dialect::Kserve);
        assert_eq!(Dialect::of_path("/v1/models/m"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/v1/nothing"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/v1"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/v1x"), Dialect::Kserve);
        assert_eq!(Dialect::of_path("/v2/rerank"), Dialect::OpenAi);
        assert_eq!(Dialect::of_path("/embed"), Dialect::Kserve);
        assert_eq!(Dialect::of_path("/v2/nothing"), Dialect::Kserve);
        assert_eq!(Dialect::of_path("/"), Dialect::Kserve);
    }
}
