//! KServe v1, which is TensorFlow Serving's REST, and the one route that it shares with OpenAI.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::find::{ModelPath, declared_inputs, model_of_path};
use super::heavy::heavy;
use super::openai::ModelObject;
use super::problem::{KserveFault, OpenAiFault};
use super::request_id::RequestId;
use super::v2::{versions, wrong_answer};
use super::{HttpState, body, reply, terms};
use crate::call::{Answer, Fault, FaultKind, Served, Terms, Work};
use crate::engine::{Model, WorkKind};
use crate::front::find::wrong_route;
use crate::telemetry::Via;
use crate::tensor::Rope;
use crate::wire::predict::{parse_request, tensors, write_reply};

const PREDICT: &str = ":predict";

/// A model as OpenAI, TensorFlow Serving and KServe v1 each want to see it.
#[derive(Serialize)]
struct ModelInfo<'a> {
    #[serde(flatten)]
    object: ModelObject<'a>,
    #[serde(flatten)]
    serving: Option<Serving<'a>>,
}

#[derive(Serialize)]
struct Serving<'a> {
    name: &'a str,
    ready: bool,
    model_version_status: Vec<VersionStatus<'a>>,
}

#[derive(Serialize)]
struct VersionStatus<'a> {
    version: &'a str,
    state: &'static str,
    status: ErrorStatus,
}

#[derive(Serialize)]
struct ErrorStatus {
    error_code: &'static str,
    error_message: &'static str,
}

/// `GET /v1/models/{id}`: the id may hold slashes, and end in `/versions/{version}`.
pub(super) async fn model(
    State(state): State<Arc<HttpState>>,
    path: ModelPath,
) -> Result<Response, OpenAiFault> {
    let (model, path) = resolve(&state, &path.model)?;
    let description = model.description();
    let ready = model.is_ready();
    let serving = match model.kind() {
        WorkKind::OpenAi { .. } => None,
        WorkKind::Tensors | WorkKind::Predict => Some(Serving {
            name: model.name(),
            ready,
            model_version_status: versions(&description)
                .into_iter()
                .filter(|version| path.version.is_empty() || *version == path.version)
                .map(|version| version_status(version, ready))
                .collect(),
        }),
    };
    let object = ModelObject::of(&model, state.started);
    Ok(reply::json(&ModelInfo { object, serving }))
}

fn version_status(version: &str, ready: bool) -> VersionStatus<'_> {
    let (state, error_code, error_message) = match ready {
        true => ("AVAILABLE", "OK", ""),
        false => ("LOADING", "UNAVAILABLE", "no usable instance"),
    };
    VersionStatus { version, state, status: ErrorStatus { error_code, error_message } }
}

/// The model of a name that may end in `/versions/{version}`; a model that is really called so
/// comes first.
fn resolve(state: &HttpState, name: &str) -> Result<(Arc<Model>, ModelPath), Fault> {
    let whole = ModelPath { model: name.to_owned(), version: String::new() };
    let path = match name.rsplit_once("/versions/") {
        Some((model, version)) if state.models.get(name).is_none() => {
            ModelPath { model: model.to_owned(), version: version.to_owned() }
        }
        _ => whole,
    };
    Ok((model_of_path(&state.models, &path)?, path))
}

/// `POST /v1/models/{id}:predict`.
pub(super) async fn predict(
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    path: ModelPath,
    request: Request,
) -> Result<Response, KserveFault> {
    let arrived = Instant::now();
    let Some(name) = path.model.strip_suffix(PREDICT) else {
        let message = "POST /v1/models/MODEL needs a verb; use POST /v1/models/MODEL:predict";
        return Err(Fault::new(FaultKind::UnknownRoute, message).into());
    };
    let (model, path) = resolve(&state, name)?;
    if matches!(model.kind(), WorkKind::OpenAi { .. }) {
        return Err(wrong_route(&model).into());
    }
    let (parts, body) = request.into_parts();
    let terms = terms::read(&parts.headers, &id, &model, arrived, state.trust_tenant_header)?;
    let body = body::read_whole(&parts.headers, body, state.max_request_bytes).await?;
    let (served, body) = match model.kind() {
        WorkKind::Predict => predict_items(&model, terms, &path, body).await?,
        _ => predict_tensors(&model, terms, path, body).await?,
    };
    Ok(reply::told(reply::json_text(body), &id, &served.timing))
}

async fn predict_items(
    model: &Model,
    terms: Terms,
    path: &ModelPath,
    body: Bytes,
) -> Result<(Served, Rope), Fault> {
    if !path.version.is_empty() {
        let message = "this model is served in one version; leave /versions/ out of the path";
        return Err(Fault::invalid("version", message));
    }
    let request = heavy(body.len(), || parse_request(body))?;
    let served = model.call(Work::Items(request), terms, Via::V1).await?;
    let Answer::Items(answer) = &served.answer else { return Err(wrong_answer()) };
    let body = write_reply(answer);
    Ok((served, body))
}

/// For models whose instances speak tensors: instances become rows, rows become predictions.
async fn predict_tensors(
    model: &Model,
    terms: Terms,
    path: ModelPath,
    body: Bytes,
) -> Result<(Served, Rope), Fault> {
    let description = model.description();
    if description.inputs.is_empty() && !model.is_ready() {
        let name = model.name();
        let message =
            format!("model '{name}' has no usable instance yet, so its inputs are unknown");
        return Err(Fault::new(FaultKind::NoInstance, message));
    }
    let declared = declared_inputs(&description);
    let (mut request, rows) = heavy(body.len(), || {
        let items = parse_request(body)?;
        let rows = items.items.len() as u64;
        tensors::instances_to_request(&items, &declared).map(|request| (request, rows))
    })?;
    request.version = path.version;
    let served = model.call(Work::Infer(request), terms, Via::V1).await?;
    let Answer::Infer(answer) = &served.answer else { return Err(wrong_answer()) };
    let bytes = answer.outputs.iter().map(|output| output.data().len()).sum();
    let body = heavy(bytes, || tensors::outputs_to_reply(answer, rows))?;
    Ok((served, body))
}
