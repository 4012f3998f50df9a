//! Spans on their way over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of its answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A client on the runtime that it was made on: who asks is a thread of its own that has none.
#[derive(Debug)]
pub(super) struct HttpExport {
    runtime: Handle,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpExport {
    /// Must be called within a tokio runtime.
    pub(super) fn new() -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { runtime: Handle::current(), client }
    }
}

#[tonic::async_trait]
impl HttpClient for HttpExport {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        // The timer is made on the runtime, too.
        let sent = self.runtime.spawn(async { tokio::time::timeout(TIMEOUT, exchange).await });
        AbortOnDropHandle::new(sent).await??
    }
}
