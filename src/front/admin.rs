//! The admin port: health, metrics, status, and a page that shows it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;

use super::reload::{ConfigStatus, ReloadError, Reloads};
use crate::engine::{Model, ModelStatus, Models};
use crate::jobs::{Jobs, JobsStatus};
use crate::telemetry::Telemetry;

/// What the handlers share.
#[derive(Clone, Debug)]
struct AdminState {
    models: Arc<Models>,
    telemetry: Telemetry,
    reloads: Reloads,
    jobs: Option<Arc<Jobs>>,
}

/// Every route of the admin port.
pub fn router(
    models: Arc<Models>,
    telemetry: Telemetry,
    reloads: Reloads,
    jobs: Option<Arc<Jobs>>,
) -> Router {
    let state = AdminState { models, telemetry, reloads, jobs };
    Router::new()
        .route("/", get(dashboard))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/reload", post(reload))
        .route("/api/models/{model}/instances/{instance}/drain", post(drain))
        .route("/api/models/{model}/instances/{instance}/resume", post(resume))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(refuse_other_sites))
        .with_state(state)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<AdminState>) -> (StatusCode, &'static str) {
    if state.models.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    if !state.models.any_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no model has a usable instance\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.telemetry.render())
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    ready: bool,
    draining: bool,
    config: ConfigStatus,
    models: Vec<ModelStatus>,
    /// Absent while it is switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_api: Option<JobsStatus>,
}

async fn status(State(state): State<AdminState>) -> Response {
    let draining = state.models.is_draining();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: !draining && state.models.any_ready(),
        draining,
        config: state.reloads.status(),
        models: state.models.status().await,
        batch_api: state.jobs.map(|jobs| jobs.status()),
    };
    ([(CACHE_CONTROL, "no-store")], axum::Json(status)).into_response()
}

async fn reload(State(state): State<AdminState>) -> Response {
    match state.reloads.reload().await {
        Ok(reloaded) => axum::Json(reloaded).into_response(),
        Err(error) => {
            let status = match error {
                ReloadError::NoFile => StatusCode::CONFLICT,
                ReloadError::Refused(_) => StatusCode::BAD_REQUEST,
                ReloadError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            };
            problem(status, error.to_string())
        }
    }
}

#[derive(Serialize)]
struct InService {
    model: String,
    instance: String,
    drained: bool,
}

async fn drain(State(state): State<AdminState>, Path(path): Path<(String, String)>) -> Response {
    set_drained(&state, &path, true).await
}

async fn resume(State(state): State<AdminState>, Path(path): Path<(String, String)>) -> Response {
    set_drained(&state, &path, false).await
}

/// Takes an instance out of service, or puts it back. What it works on is answered all the same.
async fn set_drained(
    state: &AdminState,
    (name, instance): &(String, String),
    drained: bool,
) -> Response {
    let current = state.models.current();
    let Some(model) = current.get(name) else {
        let known: Vec<_> = current.keys().map(String::as_str).collect();
        let error = format!("there is no model '{name:.100}'; there are: {}", known.join(", "));
        return problem(StatusCode::NOT_FOUND, error);
    };
    let Some(instance) = instance_of(model, instance) else {
        let known: Vec<_> =
            model.plan().instances.iter().map(|known| known.name.as_str()).collect();
        let error = format!(
            "model '{name}' has no instance '{instance:.100}'; it has: {}; in a path a name is \
             percent-encoded, or its index from 0 stands for it",
            known.join(", ")
        );
        return problem(StatusCode::NOT_FOUND, error);
    };
    if !state.models.set_drained(name, instance, drained).await {
        return problem(StatusCode::SERVICE_UNAVAILABLE, ReloadError::ShuttingDown.to_string());
    }
    tracing::info!(model = name, instance, drained, "an operator decided over an instance");
    let (model, instance) = (name.clone(), instance.to_owned());
    axum::Json(InService { model, instance, drained }).into_response()
}

/// The name of the instance that a path means: by its name, or by its index in the configuration.
fn instance_of<'a>(model: &'a Model, meant: &str) -> Option<&'a str> {
    let instances = &model.plan().instances;
    let by_name = instances.iter().find(|known| known.name == meant);
    let by_index = || instances.get(meant.parse::<usize>().ok()?);
    by_name.or_else(by_index).map(|found| found.name.as_str())
}

/// Refuses what a page of another site makes a browser send: whoever may open this port with a
/// browser must not be made to change something by visiting a page.
async fn refuse_other_sites(request: Request, next: Next) -> Response {
    let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    let foreign = from.is_some_and(|from| from != b"same-origin" && from != b"none");
    if foreign && request.method() == Method::POST {
        let error = "a page of another site must not change anything here".to_owned();
        return problem(StatusCode::FORBIDDEN, error);
    }
    next.run(request).await
}

/// The page is whole in itself and may load nothing from elsewhere: names of models and instances
/// are shown on it.
async fn dashboard() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'";
    (
        [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, policy)],
        include_str!("dashboard.html"),
    )
}

#[derive(Serialize)]
struct Problem {
    error: String,
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, axum::Json(Problem { error })).into_response()
}

async fn unknown_route() -> Response {
    let error = "there is no such route; see /, /healthz, /readyz, /metrics, /api/status, \
                 POST /api/reload, POST /api/models/MODEL/instances/INSTANCE/drain and /resume";
    problem(StatusCode::NOT_FOUND, error.to_owned())
}

async fn wrong_method() -> Response {
    let error = "the route does not have this method; header 'allow' tells which it has";
    problem(StatusCode::METHOD_NOT_ALLOWED, error.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{HeaderMap, Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    /// The pages of a server whose only model is never up.
    fn pages() -> (Router, Arc<Models>) {
        use crate::config::Plan;
        use crate::engine::ModelSetup;
        let text = "[[model]]\nname = \"m\"\nprotocol = \"openai\"\ninstances = [\"http://127.0.0.1:1\"]\n";
        let plan = Plan::parse(text, std::path::Path::new("models.toml")).unwrap();
        let plan = plan.models.into_iter().next().unwrap();
        let telemetry = Telemetry::new().unwrap();
        let setup = ModelSetup { plan, instances: Vec::new() };
        let models = Arc::new(Models::start(vec![setup], &telemetry));
        let (_, status) = tokio::sync::watch::channel(ConfigStatus::default());
        let (reloads, _) = Reloads::new(status);
        (router(Arc::clone(&models), telemetry, reloads, None), models)
    }

    async fn get(pages: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
        send(pages, Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(pages: &Router, path: &str) -> (StatusCode, String) {
        let (status, _, text) = send(pages, Request::post(path).body(Body::empty()).unwrap()).await;
        (status, text)
    }

    async fn send(pages: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let (parts, body) = pages.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_tells_alive_from_ready_from_draining() {
        let (pages, models) = pages();
        assert_eq!(get(&pages, "/healthz").await.0, StatusCode::OK);
        let (status, _, why) = get(&pages, "/readyz").await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && why.contains("no model"), "{why}");
        models.announce_drain();
        let (status, _, why) = get(&pages, "/readyz").await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && why.contains("draining"), "{why}");
        assert_eq!(get(&pages, "/healthz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn status_lists_the_models() {
        let (pages, _models) = pages();
        let (status, _, text) = get(&pages, "/api/status").await;
        assert_eq!(status, StatusCode::OK);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&status["models"][0]["name"], &status["ready"]), (&"m".into(), &false.into()));
    }

    #[tokio::test]
    async fn an_instance_is_named_in_a_path_or_counted() {
        let (pages, models) = pages();
        let drained =
            async || models.get("m").unwrap().status().await.unwrap().instances[0].drained;
        for instance in ["127.0.0.1:1", "127.0.0.1%3A1", "0"] {
            let route = format!("/api/models/m/instances/{instance}");
            let (status, text) = post(&pages, &format!("{route}/drain")).await;
            assert_eq!(status, StatusCode::OK, "{text}");
            let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(reply["instance"], "127.0.0.1:1");
            assert!(drained().await, "{instance}");
            let (status, _) = post(&pages, &format!("{route}/resume")).await;
            assert!(status == StatusCode::OK && !drained().await, "{instance}");
        }
        for (route, known) in [
            ("/api/models/m/instances/1/drain", "127.0.0.1:1"),
            ("/api/models/m/instances/embedded%2F0/resume", "127.0.0.1:1"),
            ("/api/models/n/instances/0/drain", "there are: m"),
        ] {
            let (status, text) = post(&pages, route).await;
            assert!(status == StatusCode::NOT_FOUND && text.contains(known), "{text}");
        }
        let (status, ..) = get(&pages, "/api/models/m/instances/0/drain").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn pages_of_other_sites_change_nothing() {
        let (pages, _models) = pages();
        let path = "/api/models/m/instances/0/drain";
        for (site, expected) in [
            ("same-origin", StatusCode::OK),
            ("none", StatusCode::OK),
            ("cross-site", StatusCode::FORBIDDEN),
            ("same-site", StatusCode::FORBIDDEN),
        ] {
            let request = Request::post(path).header("sec-fetch-site", site);
            let request = request.body(Body::empty()).unwrap();
            assert_eq!(send(&pages, request).await.0, expected, "{site}");
        }
    }

    #[tokio::test]
    async fn pages_have_their_types_and_load_nothing_from_elsewhere() {
        let (pages, _models) = pages();
        let (status, headers, _) = get(&pages, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
        let (_, headers, page) = get(&pages, "/").await;
        assert!(headers[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
        assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("'none'"));
        assert!(!page.contains("http://") && !page.contains("https://"));
        let (status, _, text) = get(&pages, "/nothing").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"].is_string());
    }
}
