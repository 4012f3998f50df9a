//! Reading and changing a running server over HTTP, for benches and for trying things by hand.
//!
//! `GET /control` gives the settings, `POST /control` merges a JSON object into them;
//! `GET /statistics` gives the counters, `DELETE /statistics` starts counting anew; `GET /journal`
//! gives the latest KServe v2 batches.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::{Response, StatusCode};

use super::engine::Engine;
use super::faults::kserve_error;
use super::journal::Visit;
use super::settings::{FaultStatus, Settings};
use super::statistics::Statistics;

pub(super) fn router(engine: &Arc<Engine>) -> Router {
    Router::new()
        .route("/control", get(settings).post(change))
        .route("/statistics", get(statistics).delete(reset))
        .route("/journal", get(journal))
        .with_state(Arc::clone(engine))
}

async fn settings(State(engine): State<Arc<Engine>>) -> Json<Settings> {
    Json(engine.switches.get())
}

async fn change(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Json<Settings>, Response<Body>> {
    let refused =
        |error: &dyn std::fmt::Display| kserve_error(&FaultStatus::invalid(error.to_string()));
    let patch = serde_json::from_slice(&body).map_err(|error| refused(&error))?;
    engine.switches.merge(&patch).map(Json).map_err(|error| refused(&error))
}

async fn statistics(State(engine): State<Arc<Engine>>) -> Json<Statistics> {
    Json(engine.counters.snapshot())
}

async fn journal(State(engine): State<Arc<Engine>>) -> Json<Vec<Visit>> {
    Json(engine.journal.visits())
}

async fn reset(State(engine): State<Arc<Engine>>) -> StatusCode {
    engine.counters.reset();
    StatusCode::NO_CONTENT
}
