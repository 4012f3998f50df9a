//! The gRPC front: the Open Inference Protocol with Triton's extension calls.
//!
//! Messages are read as ropes and written from them, one level below the generated service, so that
//! tensor bytes are slices of what arrived; the generated messages serve for everything small.

mod companions;
mod describe;
mod infer;
mod stream;
mod terms;

pub(super) use companions::companions;

use axum::body::Body;
use http::{Request, Response};
use http_body::Body as HttpBody;
use prost::Message;
use tokio::time::Instant;

use super::{Front, retry};
use crate::call::{Fault, FaultKind};
use crate::tensor::Rope;
use crate::wire::frame::{read_request, status_response, unary_response};
use crate::wire::status::{self, RetryAdvice};

/// The path before the name of each call.
pub const SERVICE_PATH: &str = "/inference.GRPCInferenceService/";

/// Small messages have no tensors in them.
const SMALL_MESSAGE_BYTES: usize = 1 << 20;

/// Answers one call of the inference service.
pub async fn serve<B>(front: &Front, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let method = parts.uri.path().strip_prefix(SERVICE_PATH).unwrap_or_default();
    match method {
        "ModelInfer" => infer::serve(front, &parts.headers, body).await,
        "ModelStreamInfer" => stream::serve(front, &parts.headers, body),
        "ServerLive" => unary(front, &parts.headers, body, describe::server_live).await,
        "ServerReady" => {
            unary(front, &parts.headers, body, |m| Ok(describe::server_ready(front, m))).await
        }
        "ModelReady" => {
            unary(front, &parts.headers, body, |m| Ok(describe::model_ready(front, &m))).await
        }
        "ServerMetadata" => unary(front, &parts.headers, body, describe::server_metadata).await,
        "ModelMetadata" => {
            unary(front, &parts.headers, body, |m| describe::model_metadata(front, &m)).await
        }
        "ModelConfig" => {
            unary(front, &parts.headers, body, |m| describe::model_config(front, &m)).await
        }
        "ModelStatistics" => {
            unary(front, &parts.headers, body, |m| describe::model_statistics(front, &m)).await
        }
        "RepositoryIndex" => {
            unary(front, &parts.headers, body, |m| Ok(describe::repository_index(front, &m))).await
        }
        "SystemSharedMemoryStatus" => {
            unary(front, &parts.headers, body, describe::system_shared_memory_status).await
        }
        "SystemSharedMemoryUnregister" => {
            unary(front, &parts.headers, body, describe::system_shared_memory_unregister).await
        }
        "CudaSharedMemoryStatus" => {
            unary(front, &parts.headers, body, describe::cuda_shared_memory_status).await
        }
        "CudaSharedMemoryUnregister" => {
            unary(front, &parts.headers, body, describe::cuda_shared_memory_unregister).await
        }
        unknown => {
            let message = format!("batchwise does not serve the call {unknown:?}");
            let mut response = fault_response(&Fault::new(FaultKind::Unimplemented, message));
            terms::echo_request_id(&parts.headers, response.headers_mut());
            response
        }
    }
}

async fn unary<B, Q, A>(
    front: &Front,
    headers: &http::HeaderMap,
    body: B,
    answer: impl FnOnce(Q) -> Result<A, Fault>,
) -> Response<Body>
where
    B: HttpBody<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Q: Message + Default,
    A: Message,
{
    let message = async {
        let deadline = terms::deadline(headers, Instant::now())?;
        let intake = front.intake(deadline);
        let (rope, _lease) = read_request(body, headers, SMALL_MESSAGE_BYTES, intake).await?;
        let request = Q::decode(rope.reader()).map_err(|error| {
            Fault::new(FaultKind::InvalidRequest, format!("the message is malformed: {error}"))
        })?;
        answer(request)
    };
    let mut response = match message.await {
        Ok(reply) => unary_response(&Rope::from(reply.encode_to_vec())).map(Body::new),
        Err(fault) => fault_response(&fault),
    };
    terms::echo_request_id(headers, response.headers_mut());
    response
}

/// A fault as a gRPC status, with the reason and the advice of the contract.
pub(super) fn fault_response(fault: &Fault) -> Response<Body> {
    let code = status::grpc_code(fault);
    let mut response = status_response(code, &fault.message).map(Body::new);
    let row = status::of_kind(fault.kind);
    let headers = response.headers_mut();
    headers.insert("x-batchwise-reason", http::HeaderValue::from_static(row.reason));
    if let Some(RetryAdvice { millis, .. }) = retry::write(headers, fault) {
        headers.insert("grpc-retry-pushback-ms", millis.into());
    } else if !status::retry_helps(fault) {
        // A negative push-back tells gRPC clients not to retry.
        headers.insert("grpc-retry-pushback-ms", http::HeaderValue::from_static("-1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ServerPlan;
    use crate::engine::Models;
    use crate::telemetry::Telemetry;

    #[tokio::test]
    async fn an_unknown_call_has_its_id_back() {
        let telemetry = Telemetry::new().unwrap();
        let models = Arc::new(Models::start(Vec::new(), &telemetry));
        let front = Front::new(models, &ServerPlan::default(), &telemetry);
        let request = Request::post(format!("{SERVICE_PATH}Guess")).header("x-request-id", "a-1");
        let reply = serve(&front, request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.headers()["grpc-status"], "12");
        assert_eq!(reply.headers()["x-request-id"], "a-1");
    }
}
