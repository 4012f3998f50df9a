//! The routes, answered by models whose instances are functions.

mod kserve;
mod openai;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::call::{Answer, Fault, FaultKind, Work};
use crate::config::{Plan, ServerPlan};
use crate::engine::{ModelSetup, Models};
use crate::front::Front;
use crate::instance::{
    BatchContext, BatchLimit, BoxFuture, Description, Failure, Instance, NotUp, TensorDescription,
};
use crate::telemetry::Telemetry;
use crate::tensor::DataType;

/// Bytes of the largest body that the routes read here.
const MOST: usize = 1000;

const MODELS: &str = r#"
[[model]]
name = "adder"
protocol = "kserve-grpc"
instances = ["grpc://127.0.0.1:1"]

[[model]]
name = "items"
protocol = "kserve-v1"
instances = ["http://127.0.0.1:1"]

[[model]]
name = "org/text"
protocol = "openai"
instances = ["http://127.0.0.1:1"]
upstream_name = "inner"
"#;

type Act = Arc<dyn Fn(&Work) -> Result<Answer, Failure> + Send + Sync>;

/// An instance that is a function, and keeps what it was asked.
struct Acting {
    act: Act,
    description: Description,
    asked: Arc<Mutex<Vec<(Work, BatchContext)>>>,
}

impl fmt::Debug for Acting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Acting")
    }
}

impl Instance for Acting {
    fn run(&self, work: Work, context: BatchContext) -> BoxFuture<'_, Result<Answer, Failure>> {
        let outcome = (self.act)(&work);
        self.asked.lock().unwrap().push((work, context));
        Box::pin(async move { outcome })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), NotUp>> {
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description, String>> {
        Box::pin(async { Ok(self.description.clone()) })
    }
}

/// The routes in front of the three models, all of whose instances are `act`.
struct Site {
    routes: Router,
    models: Arc<Models>,
    asked: Arc<Mutex<Vec<(Work, BatchContext)>>>,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    fn error(&self) -> String {
        let error = &self.json()["error"];
        error.as_str().or(error["message"].as_str()).unwrap().to_owned()
    }
}

impl Site {
    async fn new(act: impl Fn(&Work) -> Result<Answer, Failure> + Send + Sync + 'static) -> Self {
        let asked = Arc::default();
        let act: Act = Arc::new(act);
        let plan = Plan::parse(MODELS, Path::new("models.toml")).unwrap();
        let setups = plan.models.into_iter().map(|plan| {
            let description =
                if plan.name == "adder" { describe_adder() } else { Description::default() };
            let asked = Arc::clone(&asked);
            let instance = Acting { act: Arc::clone(&act), description, asked };
            ModelSetup { plan, instances: vec![Arc::new(instance)] }
        });
        let telemetry = Telemetry::new().unwrap();
        let models = Arc::new(Models::start(setups.collect(), &telemetry));
        let ready = async {
            while !models.current().values().all(|model| model.is_ready()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
        let server = ServerPlan { max_request_bytes: MOST as u64, ..ServerPlan::default() };
        let front = Front::new(Arc::clone(&models), &server, &telemetry);
        Self { routes: front.routes(), models, asked }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(parts.headers.contains_key("x-request-id"));
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = Request::builder().method(Method::POST).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    fn last_asked(&self) -> (Work, BatchContext) {
        self.asked.lock().unwrap().pop().unwrap()
    }
}

fn describe_adder() -> Description {
    let tensor = |name: &str| TensorDescription {
        name: name.to_owned(),
        datatype: DataType::Int32,
        shape: vec![-1, 2],
    };
    Description {
        platform: "onnx".into(),
        versions: vec!["1".into(), "2".into()],
        inputs: vec![tensor("x")],
        outputs: vec![tensor("y")],
        batch_limit: BatchLimit::Rows(8),
        parallel_batches: None,
    }
}

/// No call is expected.
fn never(work: &Work) -> Result<Answer, Failure> {
    panic!("asked for {work:?}")
}

fn refuse(_: &Work) -> Result<Answer, Failure> {
    Err(Failure::refused(Fault::new(FaultKind::Refused, "not like this")))
}
