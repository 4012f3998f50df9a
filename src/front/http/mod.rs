//! KServe v2 and v1, OpenAI and its kin over HTTP.
//!
//! A handler finds the model, reads the terms from the headers, asks whether the model takes calls at
//! all, reads the body, and only then calls the model: a request that cannot be answered is refused
//! before its body is read. Whatever
//! happens, also on routes that do not exist, the caller gets JSON in its protocol's form and an
//! `x-request-id`.

mod body;
mod find;
mod heavy;
mod jobs;
mod openai;
mod problem;
mod reply;
mod request_id;
mod terms;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};

use self::body::Unread;
use self::problem::Dialect;
use crate::call::{Fault, FaultKind};
use crate::engine::Models;
use crate::front::Front;
use crate::front::visit::Visit;
use crate::telemetry::Via;

/// What the handlers share.
#[derive(Debug)]
struct HttpState {
    front: Front,
    models: Arc<Models>,
    /// When the process started, in seconds since 1970: the age of the models, as OpenAI's list
    /// wants one.
    started: u64,
}

/// Every route of the HTTP port.
pub fn router(front: &Front) -> Router {
    let state = Arc::new(HttpState {
        front: front.clone(),
        models: Arc::clone(&front.models),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    });
    Router::new()
        .merge(v2::routes())
        .merge(jobs::routes())
        .route("/v1/models", get(openai::list_models))
        .route("/v1/models/{*rest}", get(v1::model).post(v1::predict))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions))
        .merge(openai::list_routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(openai::processing::attach))
        .layer(middleware::from_fn(request_id::attach))
        .with_state(state)
}

async fn unknown_route(State(state): State<Arc<HttpState>>, request: Request) -> Response {
    if is_grpc(&request) {
        return tonic::Status::unimplemented("there is no such service").into_http();
    }
    let message = format!(
        "there is no route {} {:.200}; see /v2/models/MODEL/infer (KServe v2), \
         /v1/models/MODEL:predict (KServe v1) and /v1/chat/completions, /v1/completions, \
         /v1/embeddings, /v1/rerank, /v1/models (OpenAI)",
        request.method(),
        request.uri().path()
    );
    stray(&state, request, Fault::new(FaultKind::UnknownRoute, message)).await
}

async fn wrong_method(State(state): State<Arc<HttpState>>, request: Request) -> Response {
    let message = format!(
        "{} is not the method of {:.200}; header 'allow' tells which are",
        request.method(),
        request.uri().path()
    );
    stray(&state, request, Fault::new(FaultKind::MethodNotAllowed, message)).await
}

/// The reply to a request that is for no route.
async fn stray(state: &HttpState, request: Request, fault: Fault) -> Response {
    let dialect = Dialect::of_path(request.uri().path());
    let via = match dialect {
        Dialect::Kserve => Via::Http,
        Dialect::OpenAi => Via::OpenAi,
    };
    let (parts, body) = Unread::of(request);
    let fault = Visit::new(&state.front, via).refused(fault);
    body.dismiss(&parts, problem::respond(dialect, &fault)).await
}

/// Both protocols share the port: what no gRPC service took comes here.
fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
