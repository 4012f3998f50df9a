//! Instances that speak OpenAI's REST.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::abort::{self, Abort};
use super::connection::{HttpClient, MAX_REPLY_BYTES, insert_http_context};
use super::http_paths::{get, get_ready, not_ready};
use super::http_status::{broken_with_words, failure_of};
use super::items::items_failure;
use super::relayed_body::RelayedBody;
use super::{BatchContext, BoxFuture, Description, Failure, Instance, Network, NotUp};
use crate::call::{Answer, ItemsAnswer, ItemsRequest, ItemsRoute, RelayAnswer, RelayRequest, Work};
use crate::config::{InstanceUrl, StreamPlan};
use crate::lane::Blame;
use crate::tensor::Rope;
use crate::wire::gauges::{LoadGauges, read_load};
use crate::wire::openai::{
    parse_embeddings_reply, parse_items_reply, reply_list, write_embeddings_request,
    write_items_request,
};

/// The most bytes of an error that are kept for the caller.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// An instance that speaks OpenAI's REST over pooled HTTP/1.1 connections.
#[derive(Debug)]
pub struct OpenAi {
    client: HttpClient,
    model: String,
    probe_path: Option<String>,
    idle_timeout: Duration,
    /// Whether it is told by a call of its own that nobody waits for a text any more.
    takes_aborts: AtomicBool,
    /// Whether it refused to tell the usage of a stream that it streamed when not asked for it.
    refuses_usage: AtomicBool,
}

impl OpenAi {
    /// The instance at `url` that knows the model as `model`. `probe_path` is asked instead of
    /// `/health` and `/v1/models`, and must answer with success.
    pub fn new(url: InstanceUrl, model: impl Into<String>, probe_path: Option<String>) -> Self {
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
        model: impl Into<String>,
        probe_path: Option<String>,
    ) -> Self {
        Self {
            client: HttpClient::new(network, url),
            model: model.into(),
            probe_path,
            idle_timeout: StreamPlan::default().idle_timeout,
            takes_aborts: AtomicBool::new(false),
            refuses_usage: AtomicBool::new(false),
        }
    }

    /// The same, given up when it is silent for so long in the middle of a relayed reply.
    #[must_use]
    pub fn with_idle_timeout(self, idle_timeout: Duration) -> Self {
        Self { idle_timeout, ..self }
    }

    async fn answer_items(
        &self,
        request: &ItemsRequest,
        context: &BatchContext,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert_http_context(&mut headers, context);
        let (route, rows) = (request.route, request.items.len());
        let body = match route {
            ItemsRoute::Embeddings => write_embeddings_request(request, &self.model),
            _ => write_items_request(request, &self.model),
        };
        let reply = self
            .client
            .exchange(Method::POST, route.path(), headers, body, MAX_REPLY_BYTES)
            .await?;
        if !reply.status.is_success() {
            return Err(failure_of(&reply));
        }
        let body = reply.bytes();
        let parsed = match route {
            ItemsRoute::Embeddings => parse_embeddings_reply(&body, rows),
            _ => parse_items_reply(route, &body, rows),
        };
        let (items, usage) =
            parsed.map_err(|error| items_failure(&error, &body, reply_list(route), rows))?;
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
        let is_named = request.can_be_named && self.takes_aborts.load(Ordering::Relaxed);
        let (asked, mut abort) = match request.with_usage {
            Some(body) if !self.refuses_usage.load(Ordering::Relaxed) => {
                let (body, abort) = self.named(body, is_named);
                let plain = request.body;
                (self.ask_with_usage(request.path, &headers, body, plain).await, abort)
            }
            _ => {
                let (body, abort) = self.named(request.body, is_named);
                (self.send(request.path, headers, body).await.map(|it| (it, false)), abort)
            }
        };
        let is_stopped = match &asked {
            Ok((response, _)) => !response.status().is_success(),
            // Whoever was not reached has begun nothing.
            Err(failure) => failure.blame == Blame::Connection,
        };
        if is_stopped {
            abort.iter_mut().for_each(Abort::disarm);
        }
        let (response, hides_usage) = asked?;
        let status = response.status();
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            return Err(broken_with_words(&HttpClient::read(response, MAX_ERROR_BYTES).await?));
        }
        let (head, body) = response.into_parts();
        let mut headers = head.headers;
        remove_hop_by_hop(&mut headers);
        let body = RelayedBody::new(body, self.idle_timeout, self.client.tasks()).with_abort(abort);
        let answer = RelayAnswer::new(status, headers, body.boxed_unsync());
        Ok(Answer::Relay(RelayAnswer { hides_usage, ..answer }))
    }

    /// Asks for the usage of a stream besides what the caller wants. A request that is refused so is
    /// made again as it came: the caller is not to hear of a field that it did not send. Returns
    /// whether the reply may tell usage that the caller did not ask for.
    async fn ask_with_usage(
        &self,
        path: &str,
        headers: &HeaderMap,
        with_usage: Rope,
        plain: Bytes,
    ) -> Result<(Response<Incoming>, bool), Failure> {
        let response = self.send(path, headers.clone(), with_usage).await?;
        let refusals = [StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY];
        if !refusals.contains(&response.status()) {
            return Ok((response, true));
        }
        let response = self.send(path, headers.clone(), plain.into()).await?;
        if response.status().is_success() && !self.refuses_usage.swap(true, Ordering::Relaxed) {
            let model = &self.model;
            tracing::warn!(
                model,
                "an instance takes no stream_options; its streams are not counted"
            );
        }
        Ok((response, false))
    }

    async fn send(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Rope,
    ) -> Result<Response<Incoming>, Failure> {
        self.client.send(Method::POST, path, headers, body).await
    }

    /// The body with a name for what it asks for, and what stops that by its name; or as it is.
    fn named(&self, body: Bytes, is_named: bool) -> (Rope, Option<Abort>) {
        let named = if is_named { Abort::of(&self.client, &body) } else { None };
        match named {
            Some((abort, body)) => (body, Some(abort)),
            None => (body.into(), None),
        }
    }

    /// What it says of itself in its list of models; many have none.
    async fn ask_models(&self) -> Result<Description, String> {
        let reply = get(&self.client, "/v1/models").await?;
        let offered = reply.status.is_success() && abort::is_offered(&reply.bytes());
        self.takes_aborts.store(offered, Ordering::Relaxed);
        Ok(Description::default())
    }

    /// What it publishes of its load, as most engines do.
    async fn ask_load(&self) -> Result<Option<LoadGauges>, String> {
        let reply = get(&self.client, "/metrics").await?;
        if !reply.status.is_success() {
            return Ok(None);
        }
        Ok(read_load(&String::from_utf8_lossy(&reply.bytes())))
    }

    async fn ask_up(&self) -> Result<(), NotUp> {
        if let Some(path) = &self.probe_path {
            return get_ready(&self.client, path).await.map(drop);
        }
        let mut reply = get(&self.client, "/health").await?;
        if reply.status == StatusCode::NOT_FOUND {
            reply = get(&self.client, "/v1/models").await?;
        }
        if reply.status.is_server_error() {
            return Err(not_ready(reply.status, format!("status {}", reply.status)));
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

impl Instance for OpenAi {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        Box::pin(async move {
            match work {
                Work::Items(request) if request.route != ItemsRoute::Predict => {
                    self.answer_items(&request, &context).await
                }
                Work::Relay(request) => self.relay(request, &context).await,
                Work::Items(_) | Work::Infer(_) => Err(super::wrong_kind("OpenAI requests")),
            }
        })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(self.ask_up())
    }

    fn load(&self) -> BoxFuture<'_, Result<Option<LoadGauges>, String>> {
        Box::pin(self.ask_load())
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(self.ask_models())
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
