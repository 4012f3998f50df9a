//! Instances that speak KServe v1, which is TensorFlow Serving's REST.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;

use super::connection::{HttpClient, MAX_REPLY_BYTES, insert_http_context};
use super::http_paths::{get_ready, segment};
use super::http_status::failure_of;
use super::items::items_failure;
use super::{BatchContext, BoxFuture, Description, Failure, Instance, Network, NotUp};
use crate::call::{Answer, ItemsAnswer, ItemsRequest, ItemsRoute, Work};
use crate::config::InstanceUrl;
use crate::wire::predict::{parse_reply, write_request};

/// An instance that speaks KServe v1, over pooled HTTP/1.1 connections.
#[derive(Debug)]
pub struct KserveV1 {
    client: HttpClient,
    predict_path: String,
    model_path: String,
    probe_path: Option<String>,
}

impl KserveV1 {
    /// The instance at `url` that knows the model as `model`. `probe_path` is asked instead of the
    /// model's own path, and only its status counts.
    pub fn new(url: InstanceUrl, model: &str, probe_path: Option<String>) -> Self {
        Self::over(&Network::Tcp, url, model, probe_path)
    }

    /// The same; `repeats`: whether a request may be sent again over a new connection when the one that
    /// it went over turns out to be closed.
    #[must_use]
    pub fn repeating(self, repeats: bool) -> Self {
        Self { client: self.client.repeating(repeats), ..self }
    }

    /// The same, reached over `network`.
    pub fn over(
        network: &Network,
        url: InstanceUrl,
        model: &str,
        probe_path: Option<String>,
    ) -> Self {
        let model_path = format!("/v1/models/{}", segment(model));
        Self {
            client: HttpClient::new(network, url),
            predict_path: format!("{model_path}:predict"),
            model_path,
            probe_path,
        }
    }

    async fn predict(
        &self,
        request: &ItemsRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert_http_context(&mut headers, context);
        let (path, body) = (&self.predict_path, write_request(request));
        let reply =
            self.client.exchange(Method::POST, path, headers, body, MAX_REPLY_BYTES).await?;
        if !reply.status.is_success() {
            return Err(failure_of(&reply));
        }
        let (body, rows) = (reply.bytes(), request.items.len());
        let items = parse_reply(&body, rows)
            .map_err(|error| items_failure(&error, &body, Some("predictions"), rows))?;
        Ok(Answer::Items(ItemsAnswer { items, usage: None, body: Some(body) }))
    }

    async fn ask_ready(&self) -> Result<(), NotUp> {
        if let Some(path) = &self.probe_path {
            return get_ready(&self.client, path).await.map(drop);
        }
        let reply = get_ready(&self.client, &self.model_path).await?;
        match says_not_ready(&reply.bytes()) {
            true => Err(NotUp::Loading("the model is not ready".to_owned())),
            false => Ok(()),
        }
    }
}

/// Whether a model's document says that it cannot serve: `ready` of KServe, which some versions
/// write as a text, or the states of TensorFlow Serving. Anything else counts as ready.
fn says_not_ready(document: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Document {
        ready: Option<Ready>,
        model_version_status: Vec<VersionStatus>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ready {
        Flag(bool),
        Text(String),
    }
    #[derive(Deserialize)]
    struct VersionStatus {
        #[serde(default)]
        state: String,
    }
    let Document { ready, model_version_status } =
        serde_json::from_slice(document).unwrap_or_default();
    let refused = match ready {
        Some(Ready::Flag(ready)) => !ready,
        Some(Ready::Text(text)) => text.eq_ignore_ascii_case("false"),
        None => false,
    };
    let mut states = model_version_status.iter();
    refused
        || (!model_version_status.is_empty() && !states.any(|version| version.state == "AVAILABLE"))
}

impl Instance for KserveV1 {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            match work {
                Work::Items(request) if request.route == ItemsRoute::Predict => {
                    self.predict(&request, &context).await
                }
                _ => Err(super::wrong_kind("lists of instances")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(self.ask_ready())
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(async { Ok(Description::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_saying_not_ready_is_understood() {
        for document in [
            r#"{"name":"m","ready":false}"#,
            r#"{"name":"m","ready":"False"}"#,
            r#"{"model_version_status":[{"version":"1","state":"LOADING"}]}"#,
        ] {
            assert!(says_not_ready(document.as_bytes()), "{document}");
        }
        for document in [
            r#"{"name":"m","ready":true}"#,
            r#"{"name":"m","ready":"True"}"#,
            r#"{"model_version_status":[{"state":"END"},{"state":"AVAILABLE"}]}"#,
            "ok",
        ] {
            assert!(!says_not_ready(document.as_bytes()), "{document}");
        }
    }
}
