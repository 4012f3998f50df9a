//! Paths that name a model, and the questions of probes.

use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::NotUp;
use super::connection::{HttpClient, HttpReply};
use super::http_status::failure_of;
use crate::tensor::Rope;

/// What must be escaped in one segment of a path: all but the unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The most bytes of the answer to a small question.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// Asks for a document, whatever the status of the reply.
pub(super) async fn get(client: &HttpClient, path: &str) -> Result<HttpReply, String> {
    client
        .exchange(Method::GET, path, HeaderMap::new(), Rope::new(), MAX_ANSWER_BYTES)
        .await
        .map_err(|failure| failure.fault.message.into_owned())
}

/// Asks for a document that must be there.
pub(super) async fn get_success(client: &HttpClient, path: &str) -> Result<HttpReply, String> {
    let reply = get(client, path).await?;
    if reply.status.is_success() {
        return Ok(reply);
    }
    Err(words(path, &reply))
}

/// Asks whether a server is ready.
pub(super) async fn get_ready(client: &HttpClient, path: &str) -> Result<HttpReply, NotUp> {
    let reply = get(client, path).await?;
    if reply.status.is_success() {
        return Ok(reply);
    }
    Err(not_ready(reply.status, words(path, &reply)))
}

/// What the status of a probe says: 503 is how servers answer that load their model.
pub(super) fn not_ready(status: StatusCode, words: String) -> NotUp {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => NotUp::Loading(words),
        _ => NotUp::Down(words),
    }
}

fn words(path: &str, reply: &HttpReply) -> String {
    let message = failure_of(reply).fault.message;
    format!("GET {path}: status {}: {message}", reply.status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(segment("resnet-50_v1.5"), "resnet-50_v1.5");
        assert_eq!(segment("org/model name?"), "org%2Fmodel%20name%3F");
    }
}
