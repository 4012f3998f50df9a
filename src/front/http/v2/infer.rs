//! Inference.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};

use super::super::body::Unread;
use super::super::find::{ModelPath, declared_inputs, model_of_path};
use super::super::heavy::heavy;
use super::super::problem::KserveFault;
use super::super::request_id::RequestId;
use super::super::{HttpState, reply, terms};
use crate::call::{
    Answer, Fault, FaultKind, InferAnswer, InferRequest, Served, Terms, Timing, Work,
};
use crate::engine::{Model, WorkKind};
use crate::front::find::wrong_route;
use crate::front::visit::Visit;
use crate::telemetry::Via;
use crate::tensor::Rope;
use crate::wire::intake::Lease;
use crate::wire::json::{
    ParsedInfer, json_length, parse_infer_request, parse_raw_infer_request, write_infer_reply,
};

pub(super) async fn infer(
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    path: ModelPath,
    request: Request,
) -> Response {
    let mut visit = Visit::new(&state.front, Via::Http);
    let (parts, mut body) = Unread::of(request);
    let asked = take_in(&state, &mut visit, &id, path, &parts.headers, &mut body).await;
    let Asked { model, parsed, mut terms, _lease } = match visit.end(asked) {
        Ok(asked) => asked,
        Err(fault) => return body.dismiss(&parts, KserveFault::from(fault).into_response()).await,
    };
    let ParsedInfer { id: own_id, request, binary_outputs, .. } = parsed;
    let id = id.or_from_body(&own_id);
    id.as_str().clone_into(&mut terms.request_id);
    let answered = answer(&model, request, terms).await.and_then(|(answer, timing)| {
        let json = answer.outputs.iter().filter(|it| !binary_outputs.is_binary(it.name()));
        let json_bytes = json.map(|output| output.data().len()).sum();
        let (headers, body) = heavy(json_bytes, || {
            write_infer_reply(model.name(), &own_id, &answer, &binary_outputs)
        })?;
        Ok(reply::told(reply::rope(headers, body), &id, &timing))
    });
    // The id of the body is the call's also when it fails.
    answered.unwrap_or_else(|fault| reply::named(KserveFault::from(fault).into_response(), &id))
}

/// A call that is ready to be made.
struct Asked {
    model: Arc<Model>,
    parsed: ParsedInfer,
    terms: Terms,
    _lease: Lease,
}

async fn take_in(
    state: &HttpState,
    visit: &mut Visit,
    id: &RequestId,
    path: ModelPath,
    headers: &http::HeaderMap,
    body: &mut Unread,
) -> Result<Asked, Fault> {
    let model = model_of_path(&state.models, &path)?;
    visit.is_for(&model);
    if model.kind() != WorkKind::Tensors {
        return Err(wrong_route(&model));
    }
    let front = &state.front;
    let mut terms = terms::read(headers, id, &model, visit.arrived(), front.trust_tenant_header)?;
    // The body may yet name another priority, where the headers name none.
    model.admits(Some(terms.priority.unwrap_or(1)), terms.tenant.as_deref())?;
    let intake = front.intake(terms.deadline);
    let (body, mut lease) = body.read(headers, front.max_request_bytes, &intake).await?;
    let binary_bytes = json_length(headers)?.map_or(0, |json| body.len().saturating_sub(json));
    let mut parsed = parse(headers, body, &model)?;
    // Tensors that came as JSON are in memory twice; the others are slices of the body.
    let tensor_bytes: usize = parsed.request.inputs.iter().map(|input| input.data().len()).sum();
    lease.grow_by(tensor_bytes.saturating_sub(binary_bytes))?;
    terms::add_scheduling(&mut terms, parsed.scheduling, &model, visit.arrived())?;
    parsed.request.version = path.version;
    Ok(Asked { model, parsed, terms, _lease: lease })
}

async fn answer(
    model: &Model,
    request: InferRequest,
    terms: Terms,
) -> Result<(InferAnswer, Timing), Fault> {
    match model.call(Work::Infer(request), terms, Via::Http).await? {
        Served { answer: Answer::Infer(answer), timing } => Ok((answer, timing)),
        _ => Err(wrong_answer()),
    }
}

fn parse(headers: &http::HeaderMap, body: Rope, model: &Model) -> Result<ParsedInfer, Fault> {
    let json_bytes = match json_length(headers)? {
        Some(0) => {
            let description = model.description();
            let batched = model.max_batch_size() > 0;
            return parse_raw_infer_request(&declared_inputs(&description), batched, body);
        }
        length => length.unwrap_or(body.len()),
    };
    heavy(json_bytes, || parse_infer_request(headers, body))
}

/// An answer of another kind than the question: a defect.
pub(in super::super) fn wrong_answer() -> Fault {
    Fault::new(FaultKind::Internal, "the answer is of another kind than the question")
}
