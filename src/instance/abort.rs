//! Engines that are told in so many words that nobody waits for a text any more.
//!
//! Most stop when the connection is closed. SGLang looks for that now and then only where the reply comes
//! whole, some of its versions not at all; it has a call for it, which wants the name that the request
//! itself gave the text.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;

use super::connection::HttpClient;
use crate::tensor::Rope;

/// How long telling it may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of what it says to that.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Whether a list of models, as OpenAI has it, is that of an engine with such a call.
pub(super) fn is_offered(models: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        owned_by: String,
    }
    let list = serde_json::from_slice::<List>(models);
    list.is_ok_and(|list| list.data.iter().any(|model| model.owned_by == "sglang"))
}

/// Tells an engine to stop a text when it is dropped, unless the text has come to its end.
pub(super) struct Abort {
    client: HttpClient,
    /// Nobody else's begins like it: a name stops all texts whose names begin so.
    name: String,
    armed: bool,
}

impl Abort {
    /// What stops a text, and the body that gives it the name by which that is done: the same with one
    /// field more. `None` where the body is no object.
    pub(super) fn of(client: &HttpClient, body: &Bytes) -> Option<(Self, Rope)> {
        let inside = body.iter().position(|&byte| byte == b'{')? + 1;
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let name = format!("{:032x}", u128::from_be_bytes(random));
        let mut named = Rope::new();
        named.push(body.slice(..inside));
        named.push(format!("\"rid\":\"{name}\",").into());
        named.push(body.slice(inside..));
        Some((Self { client: client.clone(), name, armed: true }, named))
    }

    /// There is nothing to stop any more.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let client = self.client.clone();
        let body = serde_json::json!({"rid": self.name, "abort_all": false}).to_string();
        self.client.execute(async move {
            let mut headers = HeaderMap::with_capacity(4);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let (path, body) = ("/abort_request", Rope::from(Bytes::from(body)));
            let told = client.exchange(Method::POST, path, headers, body, MAX_ANSWER_BYTES);
            let trouble = match tokio::time::timeout(TIMEOUT, told).await {
                Ok(Ok(reply)) if reply.status.is_success() => return,
                Ok(Ok(reply)) => format!("status {}", reply.status),
                Ok(Err(failure)) => failure.fault.message.into_owned(),
                Err(_) => "no reply".to_owned(),
            };
            tracing::debug!(trouble, "an engine could not be told to stop a text");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_says_in_its_list_of_models_what_it_is() {
        let list = |owner: &str| {
            is_offered(
                format!("{{\"data\":[{{\"id\":\"m\",\"owned_by\":\"{owner}\"}}]}}").as_bytes(),
            )
        };
        assert!(list("sglang") && !list("vllm") && !list("llamacpp"));
        for other in ["", "{}", "{\"data\":[{}]}", "[]"] {
            assert!(!is_offered(other.as_bytes()), "{other}");
        }
    }
}
