//! Replies.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;

use super::request_id::RequestId;
use crate::call::Timing;
use crate::front::request_id::X_REQUEST_ID;
use crate::front::server_timing::{SERVER_TIMING, server_timing};
use crate::tensor::Rope;
use crate::wire::body::RopeBody;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A reply of 200 with a rope as its body.
pub(super) fn rope(headers: HeaderMap, body: Rope) -> Response {
    let mut response = Response::new(Body::new(RopeBody::from(body)));
    *response.headers_mut() = headers;
    response
}

/// A reply of 200 with JSON text as its body.
pub(super) fn json_text(body: Rope) -> Response {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, JSON);
    rope(headers, body)
}

/// A reply of 200 with a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Response {
    // Into memory, of types with string keys: nothing that can fail.
    json_text(Rope::from(serde_json::to_vec(value).unwrap_or_default()))
}

/// The same reply, telling its id.
pub(super) fn named(mut response: Response, id: &RequestId) -> Response {
    response.headers_mut().insert(X_REQUEST_ID, id.value());
    response
}

/// The same reply, telling its id and where the time went.
pub(super) fn told(response: Response, id: &RequestId, timing: &Timing) -> Response {
    let mut response = named(response, id);
    if let Ok(value) = server_timing(timing) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    response
}
