//! Faults as replies, in the form of the caller's protocol.

use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reply::JSON;
use crate::call::{Fault, Refusal};
use crate::front::retry;
use crate::wire::status::{Status, http_status, of_kind};

const REASON: HeaderName = HeaderName::from_static("x-batchwise-reason");

/// How much of an instance's words that are no JSON is passed on.
const LONGEST_WORDS: usize = 1000;

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
        Dialect::OpenAi => openai_body(fault, &table),
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

#[derive(Deserialize, Serialize)]
struct KserveBody<T> {
    error: T,
}

fn kserve_body(fault: &Fault) -> Vec<u8> {
    if let Some(own) = own_body(fault)
        && serde_json::from_slice::<KserveBody<String>>(own).is_ok()
    {
        return own.to_vec();
    }
    let error = own_words(fault).unwrap_or_else(|| fault.message.clone().into_owned());
    serde_json::to_vec(&KserveBody { error }).unwrap_or_default()
}

/// What is inside `error`, with all four keys.
#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

fn openai_body(fault: &Fault, table: &Status) -> Vec<u8> {
    if let Some(own) = own_body(fault)
        && serde_json::from_slice::<Value>(own).is_ok_and(|value| is_openai_error(&value))
    {
        return own.to_vec();
    }
    openai_error(fault, table)
}

fn openai_error(fault: &Fault, table: &Status) -> Vec<u8> {
    let words = own_words(fault);
    let own = own_body(fault).and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let own = |key| own.as_ref()?.get("error")?.get(key)?.as_str();
    let error = OpenAiError {
        message: words.as_deref().unwrap_or(&fault.message),
        r#type: own("type").unwrap_or(table.openai_type),
        param: own("param").or(fault.field.as_deref()),
        code: own("code").or(table.openai_code),
    };
    serde_json::to_vec(&KserveBody { error }).unwrap_or_default()
}

/// A fault as the last event of a stream that cannot go on.
pub(super) fn event(fault: &Fault) -> Vec<u8> {
    let error = openai_error(fault, &of_kind(fault.kind));
    [b"data: ".as_slice(), &error, b"\n\n"].concat()
}

fn is_openai_error(value: &Value) -> bool {
    let Some(Value::Object(error)) = value.get("error") else { return false };
    let text_or_null =
        |key| error.get(key).is_some_and(|value| value.is_string() || value.is_null());
    ["message", "type"].iter().all(|key| error.get(*key).is_some_and(Value::is_string))
        && text_or_null("param")
        && text_or_null("code")
}

/// The body of an instance that refused the request.
fn own_body(fault: &Fault) -> Option<&[u8]> {
    let Refusal { body, .. } = fault.refusal.as_deref()?;
    body.as_deref()
}

/// What an instance said when it refused the request, out of whichever form it said it in.
fn own_words(fault: &Fault) -> Option<String> {
    let body = own_body(fault)?;
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        return (!text.is_empty()).then(|| text.chars().take(LONGEST_WORDS).collect());
    };
    let places = ["/error/message", "/error", "/message", "/detail"];
    let words = places.iter().find_map(|place| value.pointer(place)?.as_str().map(str::to_owned));
    let words = words.or_else(|| validation_words(&value)).unwrap_or_else(|| value.to_string());
    Some(words.chars().take(LONGEST_WORDS).collect())
}

/// What is wrong by a list of mistakes, as servers made with `FastAPI` send it.
fn validation_words(value: &Value) -> Option<String> {
    let mistakes = value.get("detail")?.as_array()?;
    let words = mistakes.iter().map(|mistake| {
        let place = mistake.get("loc").and_then(Value::as_array).into_iter().flatten();
        let place: Vec<_> = place
            .map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned))
            .collect();
        Some(format!("{}: {}", place.join("."), mistake.get("msg")?.as_str()?))
    });
    words
        .collect::<Option<Vec<_>>>()
        .filter(|words| !words.is_empty())
        .map(|words| words.join("; "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use http::StatusCode;

    use super::*;
    use crate::call::FaultKind;

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
