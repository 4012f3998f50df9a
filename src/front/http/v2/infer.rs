//! Inference.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::super::find::{ModelPath, declared_inputs, model_of_path};
use super::super::heavy::heavy;
use super::super::problem::KserveFault;
use super::super::request_id::RequestId;
use super::super::{HttpState, body, reply, terms};
use crate::call::{
    Answer, Fault, FaultKind, InferAnswer, InferRequest, Served, Terms, Timing, Work,
};
use crate::engine::{Model, WorkKind};
use crate::front::find::wrong_route;
use crate::telemetry::Via;
use crate::tensor::Rope;
use crate::wire::json::{
    ParsedInfer, json_length, parse_infer_request, parse_raw_infer_request, write_infer_reply,
};

pub(super) async fn infer(
    State(state): State<Arc<HttpState>>,
    Extension(id): Extension<RequestId>,
    path: ModelPath,
    request: Request,
) -> Result<Response, KserveFault> {
    let arrived = Instant::now();
    let model = model_of_path(&state.models, &path)?;
    if model.kind() != WorkKind::Tensors {
        return Err(wrong_route(&model).into());
    }
    let (parts, body) = request.into_parts();
    let mut terms = terms::read(&parts.headers, &id, &model, arrived, state.trust_tenant_header)?;
    let body = body::read(&parts.headers, body, state.max_request_bytes).await?;
    let ParsedInfer { id: own_id, mut request, scheduling, binary_outputs } =
        parse(&parts.headers, body, &model)?;
    terms::add_scheduling(&mut terms, scheduling, &model, arrived)?;
    let id = id.or_from_body(&own_id);
    id.as_str().clone_into(&mut terms.request_id);
    request.version = path.version;
    let answered = answer(&model, request, terms).await.and_then(|(answer, timing)| {
        let json = answer.outputs.iter().filter(|it| !binary_outputs.is_binary(it.name()));
        let json_bytes = json.map(|output| output.data().len()).sum();
        let (headers, body) = heavy(json_bytes, || {
            write_infer_reply(model.name(), &own_id, &answer, &binary_outputs)
        })?;
        Ok(reply::told(reply::rope(headers, body), &id, &timing))
    });
    // The id of the body is the call's also when it fails.
    Ok(answered.unwrap_or_else(|fault| reply::named(KserveFault::from(fault).into_response(), &id)))
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
