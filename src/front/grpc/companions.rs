//! The services that stand beside the inference service: health and reflection.

use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use futures_util::Stream;
use futures_util::stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::super::Front;
use crate::wire::pb;

/// How often a watched status is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// The service by which the inference protocol goes.
const INFERENCE: &str = "inference.GRPCInferenceService";

/// Health (of the server and of each model by its name) and reflection.
pub(in crate::front) fn companions(front: &Front) -> Router {
    let health = HealthServer::new(HealthService { front: front.clone() });
    let mut routes = tonic::service::Routes::new(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    match reflection.build_v1() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::error!(%error, "gRPC reflection is off"),
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    match reflection.build_v1alpha() {
        Ok(service) => routes = routes.add_service(service),
        Err(error) => tracing::error!(%error, "gRPC reflection (v1alpha) is off"),
    }
    routes.into_axum_router()
}

#[derive(Debug)]
struct HealthService {
    front: Front,
}

impl HealthService {
    /// The status of the whole server (`""`), of the inference service, or of a model.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let models = &self.front.models;
        let up = match service {
            "" | INFERENCE => models.any_ready(),
            name => models.get(name)?.is_ready(),
        };
        Some(if up && !models.is_draining() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        })
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = self.status(&service).ok_or_else(|| {
            Status::not_found(format!("there is neither a service nor a model {service:?}"))
        })?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let watched = HealthService { front: self.front.clone() };
        let changes = stream::unfold((watched, None), move |(watched, last)| {
            let service = service.clone();
            async move {
                loop {
                    let status = watched.status(&service).unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(status) {
                        let response = HealthCheckResponse { status: status.into() };
                        return Some((Ok(response), (watched, Some(status))));
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
