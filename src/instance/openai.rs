//! Instances that speak OpenAI's REST.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::connection::{HttpClient, MAX_REPLY_BYTES, TaskOwner, insert_http_context};
use super::http_paths::{get, get_success};
use super::http_status::{broken_with_words, failure_of};
use super::items::items_failure;
use super::{BatchContext, BoxFuture, Description, Failure, Instance};
use crate::call::{Answer, ItemsAnswer, ItemsRequest, ItemsRoute, RelayAnswer, RelayRequest, Work};
use crate::config::InstanceUrl;
use crate::wire::openai::{parse_embeddings_reply, write_embeddings_request};

/// The most bytes of an error that are kept for the caller.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// An instance that speaks OpenAI's REST over pooled HTTP/1.1 connections.
#[derive(Debug)]
pub struct OpenAi {
    client: HttpClient,
    model: String,
    probe_path: Option<String>,
}

impl OpenAi {
    /// The instance at `url` that knows the model as `model`. `probe_path` is asked instead of
    /// `/health` and `/v1/models`, and must answer with success.
    pub fn new(url: InstanceUrl, model: impl Into<String>, probe_path: Option<String>) -> Self {
        Self { client: HttpClient::new(url), model: model.into(), probe_path }
    }

    async fn embed(
        &self,
        request: &ItemsRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert_http_context(&mut headers, context);
        let body = write_embeddings_request(request, &self.model);
        let reply = self
            .client
            .exchange(Method::POST, "/v1/embeddings", headers, body, MAX_REPLY_BYTES)
            .await?;
        if !reply.status.is_success() {
            return Err(failure_of(&reply));
        }
        let (body, rows) = (reply.bytes(), request.items.len());
        let (items, usage) = parse_embeddings_reply(&body, rows)
            .map_err(|error| items_failure(&error, &body, "data", rows))?;
        Ok(Answer::Items(ItemsAnswer { items, usage, body: Some(body) }))
    }

    /// Forwards a request and hands on whatever comes back, frame by frame. Only a failure of the
    /// instance itself is one here too, so that it is counted; its words still reach the caller.
    async fn relay(
        &self,
        request: RelayRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let mut headers = request.headers;
        remove_hop_by_hop(&mut headers);
        // The body is here in full: there is nothing to wait for.
        headers.remove(EXPECT);
        headers.entry(CONTENT_TYPE).or_insert_with(|| HeaderValue::from_static("application/json"));
        insert_http_context(&mut headers, context);
        let response =
            self.client.send(Method::POST, request.path, headers, request.body.into()).await?;
        let status = response.status();
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            return Err(broken_with_words(&HttpClient::read(response, MAX_ERROR_BYTES).await?));
        }
        let (head, body) = response.into_parts();
        let mut headers = head.headers;
        remove_hop_by_hop(&mut headers);
        let body = ConnectedBody { body, _tasks: self.client.tasks() }.boxed_unsync();
        Ok(Answer::Relay(RelayAnswer { status, headers, body }))
    }

    async fn ask_up(&self) -> Result<(), String> {
        if let Some(path) = &self.probe_path {
            return get_success(&self.client, path).await.map(drop);
        }
        let mut reply = get(&self.client, "/health").await?;
        if reply.status == StatusCode::NOT_FOUND {
            reply = get(&self.client, "/v1/models").await?;
        }
        if reply.status.is_server_error() {
            return Err(format!("status {}", reply.status));
        }
        Ok(())
    }
}

/// Removes the headers that speak of one connection only.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let known = [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.into_iter().chain(known) {
        headers.remove(name);
    }
}

/// The body of a reply, which keeps its connection running whatever becomes of the instance.
struct ConnectedBody {
    body: Incoming,
    _tasks: TaskOwner,
}

impl Body for ConnectedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Instance for OpenAi {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            match work {
                Work::Items(request) if request.route == ItemsRoute::Embeddings => {
                    self.embed(&request, &context).await
                }
                Work::Relay(request) => self.relay(request, &context).await,
                Work::Items(_) | Work::Infer(_) => Err(super::wrong_kind("OpenAI requests")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.ask_up())
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(async { Ok(Description::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_are_removed_and_no_others() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-secret-hop"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-secret-hop", "1"),
            ("content-type", "text/event-stream"),
            ("openai-processing-ms", "7"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "openai-processing-ms"]);
    }
}
