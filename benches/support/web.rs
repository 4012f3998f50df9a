//! Asking the HTTP pages of model servers and proxies.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

use super::Failure;

/// A page that has not come by then does not come.
const PAGE_BOUND: Duration = Duration::from_secs(10);

/// A client for pages.
#[derive(Clone, Debug)]
pub struct Web(Client<HttpConnector, Full<Bytes>>);

impl Default for Web {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl Web {
    /// The status and the body of a page.
    pub async fn get(&self, url: &str) -> Result<(StatusCode, Bytes), Failure> {
        self.send(Method::GET, url, Bytes::new()).await
    }

    /// A page of JSON.
    pub async fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T, Failure> {
        let (status, body) = self.get(url).await?;
        if !status.is_success() {
            return Err(format!("{url} answers {status}").into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Posts JSON and wants a success.
    pub async fn post(&self, url: &str, body: &serde_json::Value) -> Result<(), Failure> {
        let (status, answer) = self.send(Method::POST, url, body.to_string().into()).await?;
        if !status.is_success() {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(format!("{url} answers {status}: {answer}").into());
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let request = Request::builder().method(method).uri(url).body(Full::new(body))?;
        let exchange = async {
            let (head, body) = self.0.request(request).await?.into_parts();
            Ok::<_, Failure>((head.status, body.collect().await?.to_bytes()))
        };
        match tokio::time::timeout(PAGE_BOUND, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{url} does not answer within {PAGE_BOUND:?}").into()),
        }
    }
}
