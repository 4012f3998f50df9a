//! The whole front, in memory: models of every kind whose instances answer with what they were
//! asked. The clock stands still while anything runs, so no deadline passes by itself.

use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use batchwise::call::{Answer, InferAnswer, ItemsAnswer, ItemsRoute, RelayAnswer, Work};
use batchwise::config::{Plan, ServerPlan};
use batchwise::engine::{ModelSetup, Models};
use batchwise::front::{Front, grpc};
use batchwise::instance::{
    BatchContext, BatchLimit, BoxFuture, Description, Failure, Instance, NotUp, TensorDescription,
};
use batchwise::telemetry::Telemetry;
use batchwise::tensor::DataType;
use bytes::Bytes;
use http::{HeaderMap, Request, Response as HttpResponse, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Bytes of the largest body that the front reads here.
pub(super) const MOST: usize = 1 << 16;

const MODELS: &str = r#"
[[model]]
name = "tensors"
protocol = "kserve-grpc"
instances = ["grpc://127.0.0.1:1"]
max_queue_delay = "0s"

[[model]]
name = "items"
protocol = "kserve-v1"
instances = ["http://127.0.0.1:1"]
max_queue_delay = "0s"

[[model]]
name = "text"
protocol = "openai"
instances = ["http://127.0.0.1:1"]
upstream_name = "inner"
max_queue_delay = "0s"
# Streams break off here all the time.
breaker = { minimum_volume = 1000000000, consecutive_failures = 1000000000 }
"#;

/// A piece of a relayed answer, or what it breaks off with.
pub(super) type Piece = Result<Bytes, &'static str>;

/// Answers with what it was asked; streams what it was told to.
#[derive(Debug)]
struct Mirror {
    stream: Arc<Mutex<Vec<Piece>>>,
}

struct Site {
    runtime: Runtime,
    telemetry: Telemetry,
    /// Runs so far.
    runs: Cell<u64>,
    front: Front,
    routes: Router,
    stream: Arc<Mutex<Vec<Piece>>>,
}

thread_local! {
    // Leaked: a runtime does not like to be dropped when its thread ends.
    static SITE: &'static Site = Box::leak(Box::new(Site::new()));
}

/// Runs a future that waits for nothing but other tasks.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    with_site(|site| site.runtime.block_on(future))
}

/// The answer of the HTTP routes, read whole.
pub(super) fn http(request: Request<Body>) -> HttpResponse<Bytes> {
    with_site(|site| {
        site.runtime.block_on(async {
            let Ok(response) = site.routes.clone().oneshot(request).await;
            whole(response).await.0
        })
    })
}

/// The answer of the gRPC service, read whole, and its trailers.
pub(super) fn grpc(request: Request<Body>) -> (HttpResponse<Bytes>, HeaderMap) {
    with_site(|site| {
        site.runtime.block_on(async { whole(grpc::serve(&site.front, request).await).await })
    })
}

/// What an instance streams next.
pub(super) fn set_stream(pieces: Vec<Piece>) {
    with_site(|site| *site.stream.lock().unwrap_or_else(PoisonError::into_inner) = pieces);
}

async fn whole(response: Response) -> (HttpResponse<Bytes>, HeaderMap) {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.expect("a front's bodies do not fail");
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (HttpResponse::from_parts(parts, collected.to_bytes()), trailers)
}

fn with_site<T>(run: impl FnOnce(&Site) -> T) -> T {
    SITE.with(|site| {
        // A proxy does so every few seconds; what is measured would else pile up.
        let runs = site.runs.get();
        site.runs.set(runs + 1);
        if runs % 1000 == 0 {
            site.telemetry.upkeep();
        }
        run(site)
    })
}

impl Site {
    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
        let stream = Arc::new(Mutex::new(Vec::new()));
        let plan = Plan::parse(MODELS, Path::new("models.toml")).expect("a good plan");
        let setups = plan.models.into_iter().map(|plan| {
            let instance = Arc::new(Mirror { stream: Arc::clone(&stream) });
            ModelSetup { plan, instances: vec![instance] }
        });
        let telemetry = Telemetry::new().expect("metrics of a process's own");
        let models = runtime.block_on(async {
            let models = Arc::new(Models::start(setups.collect(), &telemetry));
            while !models.current().values().all(|model| model.is_ready()) {
                tokio::task::yield_now().await;
            }
            models
        });
        let server = ServerPlan {
            max_request_bytes: MOST as u64,
            trust_tenant_header: true,
            ..ServerPlan::default()
        };
        let front = Front::new(models, &server, &telemetry);
        let routes = front.routes();
        Self { runtime, telemetry, runs: Cell::new(0), front, routes, stream }
    }
}

impl Instance for Mirror {
    fn run(&self, work: Work, _: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        let answer = match work {
            Work::Infer(request) => Answer::Infer(InferAnswer {
                version: "1".to_owned(),
                outputs: request.inputs,
                ..InferAnswer::default()
            }),
            Work::Items(request) => {
                let items = match request.route {
                    ItemsRoute::Predict => request.items,
                    ItemsRoute::Embeddings => {
                        vec![Bytes::from_static(b"[0.5]"); request.items.len()]
                    }
                    _ => {
                        let result = b"{\"index\":0,\"relevance_score\":0.5}";
                        vec![Bytes::from_static(result); request.items.len()]
                    }
                };
                Answer::Items(ItemsAnswer { items, usage: None, body: None })
            }
            Work::Relay(request) if !request.stream => {
                relay("application/json", vec![Ok(request.body)])
            }
            Work::Relay(_) => {
                let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
                relay("text/event-stream", std::mem::take(&mut *stream))
            }
        };
        Box::pin(async move { Ok(answer) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        let tensor = |name: &str| TensorDescription {
            name: name.to_owned(),
            datatype: DataType::Fp32,
            shape: vec![-1, 2],
        };
        let description = Description {
            inputs: vec![tensor("x")],
            outputs: vec![tensor("x")],
            batch_limit: BatchLimit::Rows(8),
            ..Description::default()
        };
        Box::pin(async move { Ok(description) })
    }
}

fn relay(content_type: &'static str, pieces: Vec<Piece>) -> Answer {
    let frames = pieces.into_iter().map(|piece| piece.map(Frame::data).map_err(Into::into));
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let content_type = (http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    let headers = HeaderMap::from_iter([content_type]);
    Answer::Relay(RelayAnswer::new(StatusCode::OK, headers, body))
}
