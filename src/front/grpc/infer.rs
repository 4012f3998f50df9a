//! ModelInfer.

use axum::body::Body;
use http::{HeaderMap, Response};
use http_body::Body as HttpBody;

use super::super::Front;
use super::super::find::{find_model, wrong_route};
use super::super::server_timing::{SERVER_TIMING, server_timing};
use super::{fault_response, terms};
use crate::call::{Answer, Fault, FaultKind, InferAnswer, Served, Timing};
use crate::engine::WorkKind;
use crate::telemetry::Via;
use crate::wire::frame::{read_unary, unary_response};
use crate::wire::v2::{DecodedInfer, decode_infer_request, encode_infer_reply};

pub(super) async fn serve<B>(front: &Front, headers: &HeaderMap, body: B) -> Response<Body>
where
    B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let decoded = async {
        let unary = read_unary(body, headers, front.max_request_bytes).await?;
        decode_infer_request(&unary.into_message()?)
    };
    let decoded = match decoded.await {
        Ok(decoded) => decoded,
        Err(fault) => {
            let mut response = fault_response(&fault);
            terms::echo_request_id(headers, response.headers_mut());
            return response;
        }
    };
    let (model_name, id) = (decoded.model_name.clone(), decoded.id.clone());
    let mut request_id = String::new();
    match answer(front, headers, decoded, &mut request_id).await {
        Ok((answer, timing)) => {
            let reply = encode_infer_reply(&answer, &model_name, &id);
            let mut response = unary_response(&reply).map(Body::new);
            terms::set_request_id(response.headers_mut(), &request_id);
            if let Ok(value) = server_timing(&timing) {
                response.headers_mut().insert(SERVER_TIMING, value);
            }
            response
        }
        Err(fault) => {
            let mut response = fault_response(&fault);
            if request_id.is_empty() {
                terms::echo_request_id(headers, response.headers_mut());
            } else {
                terms::set_request_id(response.headers_mut(), &request_id);
            }
            response
        }
    }
}

/// Calls the model that a request names. `request_id` is known from the terms on.
pub(super) async fn answer(
    front: &Front,
    headers: &HeaderMap,
    decoded: DecodedInfer,
    request_id: &mut String,
) -> Result<(InferAnswer, Timing), Fault> {
    let DecodedInfer { model_name, id, request, scheduling, .. } = decoded;
    let terms = terms::terms(headers, &id, scheduling, front.trust_tenant_header)?;
    request_id.clone_from(&terms.request_id);
    let model = find_model(&front.models, &model_name, &request.version)?;
    if model.kind() != WorkKind::Tensors {
        return Err(wrong_route(&model));
    }
    let served = model.call(crate::call::Work::Infer(request), terms, Via::Grpc).await?;
    match served {
        Served { answer: Answer::Infer(answer), timing } => Ok((answer, timing)),
        _ => Err(Fault::new(FaultKind::Internal, "the answer is of another kind than the call")),
    }
}
