//! What the fronts share.

use std::sync::Arc;

use axum::Router;
use http::Request;

use super::grpc::SERVICE_PATH;
use crate::engine::Models;

/// What the fronts share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    /// The models that are served.
    pub models: Arc<Models>,
    /// Bytes of the largest request body that is read.
    pub max_request_bytes: usize,
    /// Whether header `x-tenant-id` says who a call is from.
    pub trust_tenant_header: bool,
}

impl Front {
    /// Whether a request is for the inference service over gRPC.
    pub fn is_inference<B>(&self, request: &Request<B>) -> bool {
        request.method() == http::Method::POST && request.uri().path().starts_with(SERVICE_PATH)
    }

    /// The routes of the call listeners, but for the inference service.
    pub fn routes(&self) -> Router {
        super::grpc::companions(self).fallback_service(super::http::router(self))
    }
}
