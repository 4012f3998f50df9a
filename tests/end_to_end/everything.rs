//! A model server, and a proxy in front of it that speaks every protocol.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::model_server::{ModelServer, Options, Settings};
use crate::stage::{BOUND, eventually, proxy};

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }
}

/// A model server, and a proxy that serves its models by each of its protocols.
pub(crate) struct Everything {
    pub(crate) server: ModelServer,
    pub(crate) proxy: batchwise::app::Running,
}

impl Everything {
    pub(crate) async fn new(settings: Settings) -> Self {
        Self::with("", settings).await
    }

    /// The same with keys for each `[[model]]`.
    pub(crate) async fn with(keys: &str, settings: Settings) -> Self {
        Self::with_tables("", keys, settings).await
    }

    /// The same with tables of the top level.
    pub(crate) async fn with_tables(tables: &str, keys: &str, settings: Settings) -> Self {
        let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
        let (grpc, http) = (server.grpc_address(), server.http_address());
        let model = |name: &str, protocol: &str, upstream: &str, address| {
            format!(
                "[[model]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\n\
                 instances = [\"http://{address}\"]\nupstream_name = \"{upstream}\"\n{keys}\n"
            )
        };
        let models = [
            model("by-grpc", "kserve-grpc", "linear", grpc),
            model("linear", "kserve-http", "linear", http),
            model("by-v1", "kserve-v1", "linear", http),
            model("embed", "openai", "embed", http),
            model("chat", "openai", "chat", http),
            model("alias", "openai", "chat", http),
        ];
        let proxy = proxy(&(tables.to_owned() + &models.concat())).await;
        let everything = Self { server, proxy };
        for model in everything.proxy.models.current().values() {
            eventually(async || model.is_ready()).await;
        }
        everything
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = tokio::time::timeout(BOUND, client.request(request)).await.unwrap().unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.proxy.http))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path, body.to_string().into())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path, Bytes::new())).await
    }

    /// A page of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Reply {
        let uri = format!("http://{}{path}", self.proxy.admin);
        self.send(Request::get(uri).body(Full::default()).unwrap()).await
    }
}
