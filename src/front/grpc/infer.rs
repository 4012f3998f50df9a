//! ModelInfer.

use axum::body::Body;
use http::{HeaderMap, Response};
use http_body::Body as HttpBody;
use tokio::time::Instant;

use super::super::Front;
use super::super::find::{find_model, wrong_route};
use super::super::server_timing::{SERVER_TIMING, server_timing};
use super::super::visit::Visit;
use super::{fault_response, terms};
use crate::call::{Answer, Fault, FaultKind, InferAnswer, Served, Timing, Work};
use crate::engine::WorkKind;
use crate::telemetry::Via;
use crate::wire::frame::{read_request, unary_response};
use crate::wire::v2::{DecodedInfer, decode_infer_request, decoded_bytes, encode_infer_reply};

pub(super) async fn serve<B>(front: &Front, headers: &HeaderMap, body: B) -> Response<Body>
where
    B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let visit = Visit::new(front, Via::Grpc);
    let arrived = visit.arrived();
    let read = async {
        front.admits_calls()?;
        let deadline = terms::deadline(headers, arrived)?;
        let intake = front.intake(deadline);
        let (message, mut lease) =
            read_request(body, headers, front.max_request_bytes, intake).await?;
        lease.grow_by(decoded_bytes(&message))?;
        Ok((decode_infer_request(&message)?, deadline, lease))
    };
    let (decoded, deadline, _lease) = match read.await {
        Ok(read) => read,
        Err(fault) => return refusal(headers, "", &visit.refused(fault)),
    };
    let (model_name, id) = (decoded.model_name.clone(), decoded.id.clone());
    let mut request_id = String::new();
    match answer(front, headers, decoded, visit, deadline, &mut request_id).await {
        Ok((answer, timing)) => {
            let reply = encode_infer_reply(&answer, &model_name, &id);
            let mut response = unary_response(&reply).map(Body::new);
            terms::set_request_id(response.headers_mut(), &request_id);
            if let Ok(value) = server_timing(&timing) {
                response.headers_mut().insert(SERVER_TIMING, value);
            }
            response
        }
        Err(fault) => refusal(headers, &request_id, &fault),
    }
}

/// The reply to a call without an answer; its id is empty when it is not known.
pub(super) fn refusal(headers: &HeaderMap, request_id: &str, fault: &Fault) -> Response<Body> {
    let mut response = fault_response(fault);
    if request_id.is_empty() {
        terms::echo_request_id(headers, response.headers_mut());
    } else {
        terms::set_request_id(response.headers_mut(), request_id);
    }
    response
}

/// Calls the model that a request names. `request_id` is known from the terms on; `deadline` is what
/// the metadata says of it.
pub(super) async fn answer(
    front: &Front,
    headers: &HeaderMap,
    decoded: DecodedInfer,
    mut visit: Visit,
    deadline: Option<Instant>,
    request_id: &mut String,
) -> Result<(InferAnswer, Timing), Fault> {
    let DecodedInfer { model_name, id, request, scheduling, .. } = decoded;
    let mut find = || {
        let trusted = front.trust_tenant_header;
        let terms = terms::terms(headers, &id, scheduling, visit.arrived(), deadline, trusted)?;
        request_id.clone_from(&terms.request_id);
        let model = find_model(&front.models, &model_name, &request.version)?;
        visit.is_for(&model);
        if model.kind() != WorkKind::Tensors {
            return Err(wrong_route(&model));
        }
        Ok((model, terms))
    };
    let found = find();
    let (model, terms) = visit.end(found)?;
    let served = model.call(Work::Infer(request), terms, Via::Grpc).await?;
    match served {
        Served { answer: Answer::Infer(answer), timing } => Ok((answer, timing)),
        _ => Err(Fault::new(FaultKind::Internal, "the answer is of another kind than the call")),
    }
}
