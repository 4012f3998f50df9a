//! `openai-processing-ms`: how long a call took.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::super::problem::Dialect;

const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

/// Says how long an instance took, unless it says so itself.
pub(super) fn write(headers: &mut HeaderMap, took: Duration) {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    headers.entry(PROCESSING).or_insert(millis.into());
}

/// Says on each reply of OpenAI's routes how long it took; where no instance was asked, how long we did.
pub(in super::super) async fn attach(request: Request, next: Next) -> Response {
    if Dialect::of_path(request.uri().path()) != Dialect::OpenAi {
        return next.run(request).await;
    }
    let start = Instant::now();
    let mut response = next.run(request).await;
    write(response.headers_mut(), start.elapsed());
    response
}
