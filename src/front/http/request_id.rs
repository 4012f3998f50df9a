//! Gives every request its id.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;

use crate::call::Fault;
use crate::front::request_id::{X_REQUEST_ID, fresh_id, is_sane};

/// A request's id: the caller's, else one that no other request has.
#[derive(Clone, Debug)]
pub(super) struct RequestId {
    value: HeaderValue,
    /// Whether the caller chose it.
    given: bool,
}

impl RequestId {
    fn of(request: &Request) -> Self {
        match request.headers().get(X_REQUEST_ID) {
            Some(value) if is_sane(value.as_bytes()) => Self { value: value.clone(), given: true },
            _ => Self { value: generate(), given: false },
        }
    }

    /// The id in the body when the header had none.
    pub(super) fn or_from_body(self, id: &str) -> Self {
        if self.given || !is_sane(id.as_bytes()) {
            return self;
        }
        HeaderValue::from_str(id).map_or(self, |value| Self { value, given: true })
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }

    /// The id as a header.
    pub(super) fn value(&self) -> HeaderValue {
        self.value.clone()
    }
}

/// Gives the request an id and sends it back with the reply, whoever answers.
pub(super) async fn attach(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let value = id.value();
    request.extensions_mut().insert(id);
    let asked = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().clone()));
    let mut response = next.run(request).await;
    let id = response.headers_mut().entry(X_REQUEST_ID).or_insert(value).clone();
    if let (Some((method, uri)), Some(fault)) = (asked, response.extensions().get::<Fault>()) {
        let (status, path) = (response.status().as_u16(), uri.path());
        let request_id = id.to_str().unwrap_or_default();
        tracing::debug!(request_id, %method, path, status, %fault, "a request failed");
    }
    response
}

fn generate() -> HeaderValue {
    HeaderValue::try_from(fresh_id()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_honoured_when_it_is_sane() {
        let id = |header: Option<&[u8]>| {
            let mut request = Request::default();
            if let Some(value) = header {
                let value = HeaderValue::from_bytes(value).unwrap();
                request.headers_mut().insert(X_REQUEST_ID, value);
            }
            RequestId::of(&request)
        };
        assert_eq!(id(Some(b"abc-1")).as_str(), "abc-1");
        assert_eq!(id(Some(b"abc-1")).or_from_body("7").as_str(), "abc-1");
        assert_eq!(id(None).or_from_body("7").as_str(), "7");
        let long = [b'a'; 129];
        for bad in [b"a b".as_slice(), b"", b"\xff", &long] {
            assert!(!id(Some(bad)).given);
        }
        let generated = id(None).or_from_body("a\nb");
        assert!(!generated.given);
        assert_ne!(generated.as_str(), id(None).as_str());
    }
}
