//! What all connections to instances share: their tasks, a pooled HTTP/1.1 client.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::network::{Connector, Network, Proven};
use super::{BatchContext, Failure};
use crate::config::InstanceUrl;
use crate::lane::Blame;
use crate::tensor::Rope;
use crate::wire::body::RopeBody;

/// How long an idle HTTP/1.1 connection is kept; servers commonly close them after a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle HTTP/1.1 connections kept to one instance.
const IDLE_CONNECTIONS: usize = 64;

/// A connection that broke sooner after a request went over it was as good as broken before.
const STALE_WITHIN: Duration = Duration::from_millis(50);

/// The most bytes of a reply that are kept in memory: beyond it the instance is taken for broken.
pub(super) const MAX_REPLY_BYTES: usize = 1 << 30;

/// Runs the tasks of connections and ends them when the last [`TaskOwner`] goes.
#[derive(Clone, Debug)]
pub(super) struct TaskExecutor {
    tasks: TaskTracker,
    end: CancellationToken,
}

/// Keeps the tasks of connections running.
pub(super) type TaskOwner = Arc<DropGuard>;

impl TaskExecutor {
    /// An executor and the owner of its tasks.
    pub(super) fn new() -> (Self, TaskOwner) {
        let end = CancellationToken::new();
        let owner = Arc::new(end.clone().drop_guard());
        (Self { tasks: TaskTracker::new(), end }, owner)
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for TaskExecutor {
    fn execute(&self, task: F) {
        drop(self.tasks.spawn(self.end.clone().run_until_cancelled_owned(task)));
    }
}

/// A pooled HTTP/1.1 client of one instance.
#[derive(Clone)]
pub(super) struct HttpClient {
    client: Client<Connector, RopeBody>,
    url: InstanceUrl,
    executor: TaskExecutor,
    tasks: TaskOwner,
    repeats: bool,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpClient").field(&self.url.to_string()).finish()
    }
}

impl HttpClient {
    pub(super) fn new(network: &Network, url: InstanceUrl) -> Self {
        let (executor, tasks) = TaskExecutor::new();
        let client = Client::builder(executor.clone())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Connector::new(network, &url));
        Self { client, url, executor, tasks, repeats: true }
    }

    /// Whether what may have been begun may be sent again.
    pub(super) fn repeating(self, repeats: bool) -> Self {
        Self { repeats, ..self }
    }

    /// Keeps the connections open as long as it lives, whatever becomes of the client.
    pub(super) fn tasks(&self) -> TaskOwner {
        Arc::clone(&self.tasks)
    }

    /// Does something beside everything else. It ends when the last client and body do, at the latest.
    pub(super) fn execute(&self, task: impl Future<Output = ()> + Send + 'static) {
        hyper::rt::Executor::execute(&self.executor, task);
    }

    /// Sends a request to a path of the instance and waits for the head of the reply.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Rope,
    ) -> Result<Response<Incoming>, Failure> {
        let uri = format!("http://{}{}{path}", self.url.authority(), self.url.path_prefix);
        let uri = Uri::try_from(uri)
            .map_err(|error| Failure::broken(format!("{path:?} is no path: {error}")))?;
        let mut head = Request::new(());
        *head.method_mut() = method;
        *head.uri_mut() = uri;
        *head.headers_mut() = headers;
        // Both are the client's to say.
        head.headers_mut().remove(HOST);
        head.headers_mut().remove(CONTENT_LENGTH);
        let began = Instant::now();
        let (failure, stale) = match self.try_send(&head, &body).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        // A server may close a connection that it was to keep just as the next request comes over it.
        if !stale || !self.repeats || began.elapsed() > STALE_WITHIN {
            return Err(failure);
        }
        match self.try_send(&head, &body).await {
            Ok(response) => Ok(response),
            // Whoever cannot be reached now was lost before, maybe over this very request.
            Err((again, _)) if again.blame == Blame::Connection => Err(failure),
            Err((again, _)) => Err(again),
        }
    }

    /// Also tells whether the connection broke that had brought a reply before, without a byte of this
    /// one.
    async fn try_send(
        &self,
        head: &Request<()>,
        body: &Rope,
    ) -> Result<Response<Incoming>, (Failure, bool)> {
        let mut request = head.clone().map(|()| RopeBody::new(body.clone()));
        let captured = capture_connection(&mut request);
        let sent = self.client.request(request).await;
        let proven = Proven::of(&captured);
        match sent {
            Ok(response) => {
                proven.iter().for_each(Proven::set);
                Ok(response)
            }
            Err(error) => {
                let message = format!("no reply: {}", chain(&error));
                let stale = proven.is_some_and(|proven| proven.get());
                Err(match error.is_connect() {
                    true => (Failure::connection(message), false),
                    false => (Failure::lost(message), stale),
                })
            }
        }
    }

    /// Sends a request and reads the whole reply, at most `max` bytes of it.
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Rope,
        max: usize,
    ) -> Result<HttpReply, Failure> {
        let response = self.send(method, path, headers, body).await?;
        Self::read(response, max).await
    }

    /// Reads the whole reply, at most `max` bytes of it.
    pub(super) async fn read(
        response: Response<Incoming>,
        max: usize,
    ) -> Result<HttpReply, Failure> {
        let (head, mut incoming) = response.into_parts();
        let mut body = Rope::new();
        if incoming.size_hint().lower() > max as u64 {
            return Err(too_large(max));
        }
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| {
                Failure::lost(format!("the reply broke off: {}", chain(&error)))
            })?;
            if let Ok(data) = frame.into_data() {
                if body.len() + data.len() > max {
                    return Err(too_large(max));
                }
                body.push(data);
            }
        }
        Ok(HttpReply { status: head.status, headers: head.headers, body })
    }
}

fn too_large(max: usize) -> Failure {
    Failure::broken(format!("the reply has more than {max} bytes"))
}

/// A reply that was read whole.
#[derive(Debug)]
pub(super) struct HttpReply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Rope,
}

impl HttpReply {
    /// The body in one piece.
    pub(super) fn bytes(&self) -> Bytes {
        self.body.to_bytes()
    }
}

/// Adds what every instance over HTTP is told about a batch: how long it is waited for, and what
/// [`insert_context`] adds.
pub(super) fn insert_http_context(headers: &mut HeaderMap, context: &BatchContext) {
    let left = context.deadline.saturating_duration_since(Instant::now());
    // Rounded up: an instance must not give up before we do.
    let millis = u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
    headers.insert(HeaderName::from_static("x-request-timeout-ms"), millis.into());
    insert_context(headers, context);
}

/// Adds what every instance is told about a batch: its request id and its trace.
pub(super) fn insert_context(headers: &mut HeaderMap, context: &BatchContext) {
    let mut insert = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    if !context.request_id.is_empty() {
        insert("x-request-id", &context.request_id);
    }
    if let Some(trace) = &context.trace {
        insert("traceparent", &trace.parent);
        if let Some(state) = &trace.state {
            insert("tracestate", state);
        }
    }
}

/// An error and its causes, outermost first: the cause is what tells a refused connection from a
/// name that does not resolve. Addresses stay out of messages: callers read them, and where
/// instances live is not theirs to know.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
