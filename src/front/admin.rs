//! The admin port: health, metrics, status, and a page that shows it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use crate::engine::{ModelStatus, Models};
use crate::telemetry::Telemetry;

/// What the handlers share.
#[derive(Clone, Debug)]
struct AdminState {
    models: Arc<Models>,
    telemetry: Telemetry,
}

/// Every route of the admin port.
pub fn router(models: Arc<Models>, telemetry: Telemetry) -> Router {
    let state = AdminState { models, telemetry };
    Router::new()
        .route("/", get(dashboard))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
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
    models: Vec<ModelStatus>,
}

async fn status(State(state): State<AdminState>) -> Response {
    let draining = state.models.is_draining();
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        ready: !draining && state.models.any_ready(),
        draining,
        models: state.models.status().await,
    };
    ([(CACHE_CONTROL, "no-store")], axum::Json(status)).into_response()
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
    error: &'static str,
}

async fn unknown_route() -> impl IntoResponse {
    let error = "there is no such route; see /, /healthz, /readyz, /metrics, /api/status";
    (StatusCode::NOT_FOUND, axum::Json(Problem { error }))
}

async fn wrong_method() -> impl IntoResponse {
    let error = "the route does not have this method; header 'allow' tells which it has";
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(Problem { error }))
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
        (router(Arc::clone(&models), telemetry), models)
    }

    async fn get(pages: &Router, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
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
