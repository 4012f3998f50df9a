//! Inference.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use tokio::time::Instant;

use super::super::find::{ModelPath, declared_inputs, model_of_path};
use super::super::problem::KserveFault;
use super::super::request_id::RequestId;
use super::super::{HttpState, body, reply, terms};
use crate::call::{Answer, Fault, FaultKind, Work};
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
    let mut terms = terms::read(&parts.headers, &id, &model, arrived)?;
    let body = body::read(&parts.headers, body, state.max_request_bytes).await?;
    let ParsedInfer { id: own_id, mut request, scheduling, binary_outputs } =
        parse(&parts.headers, body, &model)?;
    terms::add_scheduling(&mut terms, scheduling, &model, arrived)?;
    let id = id.or_from_body(&own_id);
    id.as_str().clone_into(&mut terms.request_id);
    request.version = path.version;
    let served = model.call(Work::Infer(request), terms, Via::Http).await?;
    let Answer::Infer(answer) = served.answer else { return Err(wrong_answer().into()) };
    let (headers, body) = write_infer_reply(model.name(), &own_id, &answer, &binary_outputs)?;
    Ok(reply::told(reply::rope(headers, body), &id, &served.timing))
}

fn parse(headers: &http::HeaderMap, body: Rope, model: &Model) -> Result<ParsedInfer, Fault> {
    if json_length(headers)? != Some(0) {
        return parse_infer_request(headers, body);
    }
    let description = model.description();
    let batched = model.max_batch_size() > 0;
    parse_raw_infer_request(&declared_inputs(&description), batched, body)
}

/// An answer of another kind than the question: a defect.
pub(in super::super) fn wrong_answer() -> Fault {
    Fault::new(FaultKind::Internal, "the answer is of another kind than the question")
}
