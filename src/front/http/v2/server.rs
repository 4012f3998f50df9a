//! What the server is: metadata, health, the index of models, and shared memory, which it has not.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::body::Unread;
use super::super::problem::KserveFault;
use super::super::{HttpState, reply};
use crate::call::{Fault, FaultKind, Refusal};

#[derive(Serialize)]
struct Metadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 6],
}

pub(super) async fn metadata() -> Response {
    reply::json(&Metadata {
        name: "batchwise",
        version: env!("CARGO_PKG_VERSION"),
        extensions: [
            "binary_tensor_data",
            "parameters",
            "schedule_policy",
            "model_configuration",
            "statistics",
            "model_repository",
        ],
    })
}

pub(super) async fn live() -> Response {
    StatusCode::OK.into_response()
}

pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Result<Response, KserveFault> {
    if state.models.is_draining() {
        return Err(not_ready(FaultKind::Draining, "the server is shutting down"));
    }
    if !state.models.any_ready() {
        return Err(not_ready(FaultKind::NoInstance, "no model has a usable instance"));
    }
    Ok(StatusCode::OK.into_response())
}

/// Not ready is 400, as in Triton: probes of its users look for that.
pub(super) fn not_ready(
    kind: FaultKind,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> KserveFault {
    let refusal =
        Refusal { http: Some(StatusCode::BAD_REQUEST), grpc: None, body: None, content_type: None };
    Fault::new(kind, message).with_refusal(refusal).into()
}

#[derive(Serialize)]
struct IndexEntry<'a> {
    name: &'a str,
    version: String,
    state: &'static str,
    reason: &'static str,
}

pub(super) async fn repository_index(
    State(state): State<Arc<HttpState>>,
    request: Request,
) -> Result<Response, KserveFault> {
    #[derive(Default, Deserialize)]
    struct Query {
        #[serde(default)]
        ready: bool,
    }
    let (parts, mut body) = Unread::of(request);
    let intake = state.front.intake(None);
    let (body, _lease) =
        body.read_whole(&parts.headers, state.front.max_request_bytes, &intake).await?;
    let query: Query = if body.is_empty() {
        Query::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Fault::invalid("body", format!("the body must be empty or {{\"ready\": ...}}: {error}"))
        })?
    };
    let models = state.models.current();
    let index: Vec<_> = models
        .values()
        .filter(|model| !query.ready || model.is_ready())
        .map(|model| {
            let (state, reason) = match model.is_ready() {
                true => ("READY", ""),
                false => ("UNAVAILABLE", "no instance is up"),
            };
            let version = super::statistics::version_of(&model.description());
            IndexEntry { name: model.name(), version, state, reason }
        })
        .collect();
    Ok(reply::json(&index))
}

pub(super) async fn load_or_unload() -> KserveFault {
    unsupported(
        "models are loaded by their instances and named in models.toml; this server does \
                 not load or unload any",
    )
}

// ---- shared memory ----

pub(super) async fn no_regions() -> Response {
    reply::json(&[0_u8; 0])
}

/// Nothing is ever registered, so that nothing is left to do: clients unregister before they start.
pub(super) async fn unregistered() -> Response {
    StatusCode::OK.into_response()
}

pub(super) async fn unknown_region() -> KserveFault {
    let message = "there is no such shared memory region: shared memory is not supported";
    Fault::new(FaultKind::UnknownModel, message).into()
}

pub(super) async fn register() -> KserveFault {
    unsupported("shared memory is not supported; send the data in the body")
}

fn unsupported(message: &'static str) -> KserveFault {
    Fault::new(FaultKind::Unimplemented, message).into()
}
