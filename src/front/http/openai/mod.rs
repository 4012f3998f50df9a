//! OpenAI: the list of models, embeddings, and text whole or streamed.

mod event_stream;
mod lists;
pub(super) mod processing;
mod relay;
mod text;

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;

pub(super) use self::lists::routes as list_routes;
use self::relay::{Relay, respond};
use self::text::{Text, generates, may_be_served_elsewhere};
use super::body::Unread;
use super::heavy::heavy;
use super::problem::OpenAiFault;
use super::request_id::RequestId;
use super::v2::wrong_answer;
use super::{HttpState, reply, terms};
use crate::call::{
    Answer, Fault, FaultKind, ItemsAnswer, ItemsRequest, RelayRequest, Terms, Timing, Usage, Work,
};
use crate::engine::{Model, WorkKind};
use crate::front::find::{find_model, wrong_route};
use crate::front::timeout_header::deadline;
use crate::front::visit::Visit;
use crate::telemetry::Via;
use crate::wire::intake::Lease;
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
) -> Response {
    let mut visit = Visit::new(&state.front, Via::OpenAi);
    let (parts, mut body) = Unread::of(request);
    let asked = take_embeddings_in(&state, &mut visit, &id, &parts.headers, &mut body).await;
    let Asked { model, name, work: (request, wants_base64), terms, _lease } = match visit.end(asked)
    {
        Ok(asked) => asked,
        Err(fault) => {
            return body.dismiss(&parts, OpenAiFault::from(fault).into_response()).await;
        }
    };
    let answered = async {
        let served = model.call(Work::Items(request), terms, Via::OpenAi).await?;
        let Answer::Items(answer) = &served.answer else { return Err(wrong_answer()) };
        let bytes = answer.items.iter().map(Bytes::len).sum();
        let body = heavy(bytes, || {
            write_embeddings_reply(&name, &model.plan().upstream_name, answer, wants_base64)
        });
        let body = body.map_err(|error| Fault::new(FaultKind::Upstream, error.to_string()))?;
        count_usage(&model, answer);
        Ok(told(reply::json_text(body), &id, &served.timing))
    };
    answered.await.unwrap_or_else(|fault| OpenAiFault::from(fault).into_response())
}

/// The same reply, telling its id and where the time went.
fn told(response: Response, id: &RequestId, timing: &Timing) -> Response {
    let mut response = reply::told(response, id, timing);
    processing::write(response.headers_mut(), timing.batch);
    response
}

/// Counts what a call's share of its batch cost.
fn count_usage(model: &Model, answer: &ItemsAnswer) {
    if let Some(Usage { prompt_tokens, total_tokens }) = answer.usage {
        model.metrics().count_tokens(prompt_tokens, total_tokens.saturating_sub(prompt_tokens));
    }
}

/// A call that is ready to be made.
struct Asked<W> {
    model: Arc<Model>,
    /// As the caller names it.
    name: String,
    work: W,
    terms: Terms,
    _lease: Lease,
}

async fn take_embeddings_in(
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<Asked<(ItemsRequest, bool)>, Fault> {
    let (body, _lease) = read(state, visit, headers, body).await?;
    let ParsedEmbeddings { model: name, mut request, wants_base64 } =
        heavy(body.len(), || parse_embeddings(body))?;
    let model = find_model(&state.models, &name, "")?;
    visit.is_for(&model);
    if !matches!(model.kind(), WorkKind::OpenAi { embeddings: true, .. }) {
        return Err(wrong_route(&model));
    }
    let trusted = state.front.trust_tenant_header;
    let terms = terms::read(headers, id, &model, visit.arrived(), trusted)?;
    if model.plan().upstream_name != name {
        // The body names the model as the caller does.
        request.body = None;
    }
    Ok(Asked { model, name, work: (request, wants_base64), terms, _lease })
}

/// Reads a body that names its model: what can be refused before is refused unread.
async fn read(
    state: &HttpState,
    visit: &Visit,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<(Bytes, Lease), Fault> {
    let front = &state.front;
    front.admits_calls()?;
    let intake = front.intake(deadline(headers, visit.arrived())?);
    body.read_whole(headers, front.max_request_bytes, &intake).await
}

pub(super) async fn chat_completions(
    state: State<Arc<HttpState>>,
    id: Extension<RequestId>,
    request: Request,
) -> Response {
    generate("/v1/chat/completions", state, id, request).await
}

pub(super) async fn completions(
    state: State<Arc<HttpState>>,
    id: Extension<RequestId>,
    request: Request,
) -> Response {
    generate("/v1/completions", state, id, request).await
}

async fn generate(
    path: &'static str,
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    let mut visit = Visit::new(&state.front, Via::OpenAi);
    let (parts, mut body) = Unread::of(request);
    let asked = take_text_in(path, &state, &mut visit, &id, &parts.headers, &mut body).await;
    let Asked { model, work: text, terms, mut _lease, .. } = match visit.end(asked) {
        Ok(asked) => asked,
        Err(fault) => return body.dismiss(&parts, OpenAiFault::from(fault).into_response()).await,
    };
    let mut fault = wrong_answer();
    for model in text.candidates(&state.models, &model, &id) {
        let request = text.request(&model, &mut _lease);
        match relayed(&model, request, text.terms(&terms, &model), &id).await {
            Ok(response) => return response,
            Err(last) => fault = last,
        }
        if !may_be_served_elsewhere(&fault) {
            break;
        }
    }
    OpenAiFault::from(fault).into_response()
}

/// Has a request forwarded whole, and its answer.
async fn relayed(
    model: &Model,
    work: RelayRequest,
    terms: Terms,
    id: &RequestId,
) -> Result<Response, Fault> {
    let served = model.call(Work::Relay(work), terms, Via::OpenAi).await?;
    let Answer::Relay(answer) = served.answer else { return Err(wrong_answer()) };
    let response = respond(answer, Relay::of(model)).await?;
    Ok(told(response, id, &served.timing))
}

async fn take_text_in(
    path: &'static str,
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<Asked<Text>, Fault> {
    let (body, lease) = read(state, visit, headers, body).await?;
    take_whole(path, state, visit, id, headers, (body, lease))
}

/// A request that is forwarded whole, from its body.
fn take_whole(
    path: &'static str,
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    headers: &HeaderMap,
    (body, lease): (Bytes, Lease),
) -> Result<Asked<Text>, Fault> {
    let parsed = heavy(body.len(), || parse_generation(&body))?;
    let model = find_model(&state.models, &parsed.model, "")?;
    visit.is_for(&model);
    if !generates(&model) {
        return Err(wrong_route(&model));
    }
    let trusted = state.front.trust_tenant_header;
    let terms = terms::read(headers, id, &model, visit.arrived(), trusted)?;
    let text = Text::new(path, parsed, body, headers);
    Ok(Asked { model, name: text.model().to_owned(), work: text, terms, _lease: lease })
}
