//! OpenAI: the list of models, embeddings, and text whole or streamed.

mod relay;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use self::relay::respond;
use super::heavy::heavy;
use super::problem::OpenAiFault;
use super::request_id::RequestId;
use super::v2::wrong_answer;
use super::{HttpState, body, reply, terms};
use crate::call::{Answer, Fault, FaultKind, RelayRequest, Work};
use crate::engine::{Model, WorkKind};
use crate::front::find::{find_model, wrong_route};
use crate::telemetry::Via;
use crate::wire::openai::{
    ParsedEmbeddings, parse_embeddings, parse_generation, write_embeddings_reply,
};

/// A model as OpenAI's clients know it.
#[derive(Serialize)]
pub(super) struct ModelObject<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl<'a> ModelObject<'a> {
    pub(super) fn of(model: &'a Model, created: u64) -> Self {
        Self { id: model.name(), object: "model", created, owned_by: "batchwise" }
    }
}

/// OpenAI's list of models, with KServe v1's list of their names beside it.
#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelObject<'a>>,
    models: Vec<&'a str>,
}

pub(super) async fn list_models(State(state): State<Arc<HttpState>>) -> Response {
    let models = state.models.current();
    reply::json(&ModelList {
        object: "list",
        data: models.values().map(|model| ModelObject::of(model, state.started)).collect(),
        models: models.keys().map(String::as_str).collect(),
    })
}

pub(super) async fn embeddings(
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiFault> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let body = body::read_whole(&parts.headers, body, state.max_request_bytes).await?;
    let ParsedEmbeddings { model: name, mut request, wants_base64 } =
        heavy(body.len(), || parse_embeddings(body))?;
    let model = find_model(&state.models, &name, "")?;
    if !matches!(model.kind(), WorkKind::OpenAi { embeddings: true, .. }) {
        return Err(wrong_route(&model).into());
    }
    let terms = terms::read(&parts.headers, &id, &model, arrived, state.trust_tenant_header)?;
    if model.plan().upstream_name != name {
        // The body names the model as the caller does.
        request.body = None;
    }
    let served = model.call(Work::Items(request), terms, Via::OpenAi).await?;
    let Answer::Items(answer) = &served.answer else { return Err(wrong_answer().into()) };
    let bytes = answer.items.iter().map(Bytes::len).sum();
    let body = heavy(bytes, || {
        write_embeddings_reply(&name, &model.plan().upstream_name, answer, wants_base64)
    });
    let body = body.map_err(|error| Fault::new(FaultKind::Upstream, error.to_string()))?;
    Ok(reply::told(reply::json_text(body), &id, &served.timing))
}

pub(super) async fn chat_completions(
    state: State<Arc<HttpState>>,
    id: Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiFault> {
    generate("/v1/chat/completions", state, id, request).await
}

pub(super) async fn completions(
    state: State<Arc<HttpState>>,
    id: Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiFault> {
    generate("/v1/completions", state, id, request).await
}

async fn generate(
    path: &'static str,
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiFault> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = body::read_whole(&parts.headers, body, state.max_request_bytes).await?;
    let parsed = heavy(body.len(), || parse_generation(&body))?;
    let model = find_model(&state.models, &parsed.model, "")?;
    if !matches!(model.kind(), WorkKind::OpenAi { generation: true, .. }) {
        return Err(wrong_route(&model).into());
    }
    let terms = terms::read(&parts.headers, &id, &model, arrived, state.trust_tenant_header)?;
    let known_as = &model.plan().upstream_name;
    if *known_as != parsed.model {
        body = parsed.with_model(&body, known_as);
    }
    let headers = relay::headers_for_instance(&parts.headers);
    let request = RelayRequest { path, headers, body, stream: parsed.stream };
    let served = model.call(Work::Relay(request), terms, Via::OpenAi).await?;
    let Answer::Relay(answer) = served.answer else { return Err(wrong_answer().into()) };
    let response = respond(answer).await?;
    Ok(reply::told(response, &id, &served.timing))
}
