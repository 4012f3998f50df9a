//! What the fronts share.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use tokio::time::Instant;

use super::grpc::SERVICE_PATH;
use crate::call::Fault;
use crate::config::ServerPlan;
use crate::engine::{Models, draining};
use crate::jobs::Jobs;
use crate::telemetry::{StrayMetrics, Telemetry};
use crate::wire::intake::{Budget, Intake};

/// What the fronts share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Front {
    /// The models that are served.
    pub models: Arc<Models>,
    /// Bytes of the largest request body that is read.
    pub max_request_bytes: usize,
    /// Bytes of requests in memory.
    pub budget: Budget,
    /// How long a caller may send nothing in the middle of a request.
    pub read_timeout: Duration,
    /// Whether header `x-tenant-id` says who a call is from.
    pub trust_tenant_header: bool,
    /// The Batch API, where it is switched on.
    pub jobs: Option<Arc<Jobs>>,
    /// Counts the calls that end before their model is known.
    pub strays: Arc<StrayMetrics>,
}

impl Front {
    /// The front of `models` within the bounds of `plan`.
    pub fn new(models: Arc<Models>, plan: &ServerPlan, telemetry: &Telemetry) -> Self {
        Self {
            models,
            max_request_bytes: size(plan.max_request_bytes),
            budget: Budget::new(size(plan.max_buffered_bytes)),
            read_timeout: plan.read_timeout,
            trust_tenant_header: plan.trust_tenant_header,
            jobs: None,
            strays: Arc::new(StrayMetrics::new(telemetry)),
        }
    }

    /// The same front with the Batch API, if there is one.
    #[must_use]
    pub fn with_jobs(self, jobs: Option<Arc<Jobs>>) -> Self {
        Self { jobs, ..self }
    }

    /// The same front within other bounds. What is in memory is counted on.
    #[must_use]
    pub fn bounded_by(&self, plan: &ServerPlan) -> Self {
        self.budget.set_most(size(plan.max_buffered_bytes));
        Self {
            max_request_bytes: size(plan.max_request_bytes),
            read_timeout: plan.read_timeout,
            trust_tenant_header: plan.trust_tenant_header,
            ..self.clone()
        }
    }

    /// How the request of a caller is read who waits until `deadline`.
    pub(super) fn intake(&self, deadline: Option<Instant>) -> Intake {
        Intake { budget: self.budget.clone(), idle: self.read_timeout, deadline }
    }

    /// Whether new calls are taken at all.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub(super) fn admits_calls(&self) -> Result<(), Fault> {
        if self.models.is_closed() { Err(draining()) } else { Ok(()) }
    }

    /// Whether a request is for the inference service over gRPC.
    pub fn is_inference<B>(&self, request: &Request<B>) -> bool {
        request.method() == http::Method::POST && request.uri().path().starts_with(SERVICE_PATH)
    }

    /// The routes of the call listeners, but for the inference service.
    pub fn routes(&self) -> Router {
        super::grpc::companions(self).fallback_service(super::http::router(self))
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
