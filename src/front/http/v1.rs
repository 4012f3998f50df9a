//! KServe v1, which is TensorFlow Serving's REST, and the one route that it shares with OpenAI.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Serialize;

use super::body::Unread;
use super::find::{ModelPath, declared_inputs, model_of_path};
use super::heavy::heavy;
use super::openai::ModelObject;
use super::problem::{KserveFault, OpenAiFault};
use super::request_id::RequestId;
use super::v2::{versions, wrong_answer};
use super::{HttpState, reply, terms};
use crate::call::{Answer, Fault, FaultKind, InferRequest, ItemsRequest, Served, Terms, Work};
use crate::engine::{Model, WorkKind};
use crate::front::find::wrong_route;
use crate::front::visit::Visit;
use crate::telemetry::Via;
use crate::tensor::Rope;
use crate::wire::intake::Lease;
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
) -> Response {
    let mut visit = Visit::new(&state.front, Via::V1);
    let (parts, mut body) = Unread::of(request);
    let asked = take_in(&state, &mut visit, &id, &path, &parts.headers, &mut body).await;
    let Asked { model, work, terms, _lease } = match visit.end(asked) {
        Ok(asked) => asked,
        Err(fault) => return body.dismiss(&parts, KserveFault::from(fault).into_response()).await,
    };
    match answer(&model, work, terms).await {
        Ok((served, body)) => reply::told(reply::json_text(body), &id, &served.timing),
        Err(fault) => KserveFault::from(fault).into_response(),
    }
}

/// A call that is ready to be made.
struct Asked {
    model: Arc<Model>,
    work: Work,
    terms: Terms,
    _lease: Lease,
}

async fn take_in(
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    path: &ModelPath,
    headers: &http::HeaderMap,
    body: &mut Unread,
) -> Result<Asked, Fault> {
    let Some(name) = path.model.strip_suffix(PREDICT) else {
        let message = "POST /v1/models/MODEL needs a verb; use POST /v1/models/MODEL:predict";
        return Err(Fault::new(FaultKind::UnknownRoute, message));
    };
    let (model, path) = resolve(state, name)?;
    visit.is_for(&model);
    if matches!(model.kind(), WorkKind::OpenAi { .. }) {
        return Err(wrong_route(&model));
    }
    let front = &state.front;
    let terms = terms::read(headers, id, &model, visit.arrived(), front.trust_tenant_header)?;
    model.admits(terms.priority, terms.tenant.as_deref())?;
    let intake = front.intake(terms.deadline);
    let (body, mut lease) = body.read_whole(headers, front.max_request_bytes, &intake).await?;
    let work = match model.kind() {
        WorkKind::Predict => Work::Items(items(&path, body)?),
        _ => {
            let request = tensors_of(&model, path, body)?;
            lease.grow_by(request.inputs.iter().map(|input| input.data().len()).sum())?;
            Work::Infer(request)
        }
    };
    Ok(Asked { model, work, terms, _lease: lease })
}

fn items(path: &ModelPath, body: Bytes) -> Result<ItemsRequest, Fault> {
    if !path.version.is_empty() {
        let message = "this model is served in one version; leave /versions/ out of the path";
        return Err(Fault::invalid("version", message));
    }
    heavy(body.len(), || parse_request(body))
}

/// For models whose instances speak tensors: instances become rows.
fn tensors_of(model: &Model, path: ModelPath, body: Bytes) -> Result<InferRequest, Fault> {
    let description = model.description();
    if description.inputs.is_empty() && !model.is_ready() {
        let name = model.name();
        let message =
            format!("model '{name}' has no usable instance yet, so its inputs are unknown");
        return Err(Fault::new(FaultKind::NoInstance, message));
    }
    let declared = declared_inputs(&description);
    let mut request = heavy(body.len(), || {
        let items = parse_request(body)?;
        tensors::instances_to_request(&items, &declared)
    })?;
    request.version = path.version;
    Ok(request)
}

async fn answer(model: &Model, work: Work, terms: Terms) -> Result<(Served, Rope), Fault> {
    let rows = match &work {
        Work::Infer(request) => request.inputs.first().and_then(|input| input.shape().rows()),
        _ => None,
    };
    let served = model.call(work, terms, Via::V1).await?;
    let body = match &served.answer {
        Answer::Items(answer) => write_reply(answer),
        Answer::Infer(answer) => {
            let bytes = answer.outputs.iter().map(|output| output.data().len()).sum();
            heavy(bytes, || tensors::outputs_to_reply(answer, rows.unwrap_or(0)))?
        }
        Answer::Relay(_) => return Err(wrong_answer()),
    };
    Ok((served, body))
}
