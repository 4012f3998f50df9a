//! KServe v2 (Open Inference Protocol) and those of Triton's extensions that a proxy can honour.

mod describe;
mod infer;
mod server;
mod statistics;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::HttpState;

pub(super) use describe::versions;
pub(super) use infer::wrong_answer;

pub(super) fn routes() -> Router<Arc<HttpState>> {
    let models = Router::new()
        .route("/v2/models/stats", get(statistics::all))
        .route("/v2/models/{model}", get(describe::metadata))
        .route("/v2/models/{model}/versions/{version}", get(describe::metadata))
        .route("/v2/models/{model}/ready", get(describe::ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(describe::ready))
        .route("/v2/models/{model}/config", get(describe::config))
        .route("/v2/models/{model}/versions/{version}/config", get(describe::config))
        .route("/v2/models/{model}/stats", get(statistics::one))
        .route("/v2/models/{model}/versions/{version}/stats", get(statistics::one))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::infer));
    let server = Router::new()
        .route("/v2", get(server::metadata))
        .route("/v2/", get(server::metadata))
        .route("/v2/health/live", get(server::live))
        .route("/v2/health/ready", get(server::ready))
        .route("/v2/repository/index", post(server::repository_index))
        .route("/v2/repository/models/{model}/load", post(server::load_or_unload))
        .route("/v2/repository/models/{model}/unload", post(server::load_or_unload));
    let memory = ["/v2/systemsharedmemory", "/v2/cudasharedmemory"].into_iter().fold(
        Router::new(),
        |router, kind| {
            router
                .route(&format!("{kind}/status"), get(server::no_regions))
                .route(&format!("{kind}/unregister"), post(server::unregistered))
                .route(&format!("{kind}/region/{{region}}/status"), get(server::unknown_region))
                .route(&format!("{kind}/region/{{region}}/unregister"), post(server::unregistered))
                .route(&format!("{kind}/region/{{region}}/register"), post(server::register))
        },
    );
    models.merge(server).merge(memory)
}
