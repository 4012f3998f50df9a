//! The configuration changes while calls are under way.

mod calls;
mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use batchwise::app::{Origin, Running, start_from};
use batchwise::config::{self, Overrides};
use batchwise::wire::pb;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::Status;

use crate::model_server::{ModelServer, Options, ServiceTime, Settings};
use crate::stage::{BOUND, Client, ask, client, eventually, request};

/// A proxy that has read its configuration from a file.
struct Configured {
    file: PathBuf,
    proxy: Running,
}

impl Configured {
    /// Starts a proxy with a file of its own, whose name is that of the test.
    async fn new(test: &str, models: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("models.toml");
        write(&file, models);
        Self { proxy: proxy_of(&file).await, file }
    }

    /// Changes the file and reloads it.
    async fn reload(&self, models: &str) -> Value {
        write(&self.file, models);
        let reloaded = tokio::time::timeout(BOUND, self.proxy.reload()).await.unwrap();
        serde_json::to_value(reloaded.unwrap()).unwrap()
    }

    async fn admin(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let client = HttpClient::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{}{path}", self.proxy.admin);
        let request = Request::builder().method(method).uri(uri).body(Full::<Bytes>::default());
        let reply = tokio::time::timeout(BOUND, client.request(request.unwrap())).await;
        let (parts, body) = reply.unwrap().unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&body).unwrap())
    }
}

async fn proxy_of(file: &Path) -> Running {
    let overrides = Overrides::default();
    let loaded = config::load(Some(file), &overrides).unwrap();
    start_from(Origin::of(&loaded, file, overrides), &loaded.plan).await.unwrap()
}

/// Replaces the file as an editor does: there is no moment without one, nor with half of one.
fn write(file: &Path, models: &str) {
    let any = "127.0.0.1:0";
    let text = format!("[server]\nhttp = \"{any}\"\ngrpc = \"{any}\"\nadmin = \"{any}\"\n{models}");
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A `[[model]]` that these servers serve as `linear`.
fn model(name: &str, servers: &[&ModelServer], keys: &str) -> String {
    let addresses: Vec<_> =
        servers.iter().map(|server| format!("\"http://{}\"", server.grpc_address())).collect();
    format!(
        "[[model]]\nname = \"{name}\"\nprotocol = \"kserve-grpc\"\nupstream_name = \"linear\"\n\
         instances = [{}]\n{keys}\n",
        addresses.join(", ")
    )
}

async fn server(settings: Settings) -> ModelServer {
    ModelServer::start(Options { settings, ..Options::default() }).await.unwrap()
}

fn taking(millis: u64, max_batch_size: u32) -> Settings {
    let service = ServiceTime::linear(Duration::from_millis(millis), Duration::ZERO);
    Settings { service, max_batch_size, ..Settings::default() }
}

/// Asks a model and checks the answer.
async fn ask_model(client: &mut Client, name: &str, number: usize) -> Result<(), Status> {
    let request = pb::ModelInferRequest {
        model_name: name.to_owned(),
        ..request(1 + number % 3, 4, number as f32)
    };
    ask(client, request).await
}

/// Callers that each call again as soon as they are answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Status>>,
}

impl Load {
    async fn start(proxy: &Running, name: &'static str, callers: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let connection = client(proxy).await;
        let mut load = JoinSet::new();
        for caller in 0..callers {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let mut client = connection.clone();
            load.spawn(async move {
                let mut failed = Vec::new();
                let mut number = caller;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(status) = ask_model(&mut client, name, number).await {
                        failed.push(status);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    number += callers;
                }
                failed
            });
        }
        Self { stop, answered, callers: load }
    }

    /// Waits until so many more calls have been answered.
    async fn goes_on(&self, calls: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(async || self.answered.load(Ordering::Relaxed) >= before + calls).await;
    }

    /// Ends the load. Returns what failed.
    async fn end(self) -> Vec<Status> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(BOUND, self.callers.join_all()).await.unwrap().concat()
    }
}
