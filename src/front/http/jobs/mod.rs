//! OpenAI's Batch API: files and batches.

mod batches;
mod files;
mod multipart;

use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use serde::Deserialize;

use super::HttpState;
use super::problem::OpenAiFault;
use crate::call::{Fault, FaultKind};
use crate::front::tenant::caller;
use crate::front::visit::Visit;
use crate::jobs::{Jobs, Owner, Page};
use crate::telemetry::Via;

/// The routes of files and batches.
pub(super) fn routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::retrieve).delete(files::delete))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::retrieve))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
}

/// What a request is for, and whose.
struct Seat {
    jobs: Arc<Jobs>,
    owner: Owner,
}

impl Seat {
    /// # Errors
    /// When the Batch API is switched off, or a header makes no sense.
    fn take(state: &HttpState, headers: &HeaderMap) -> Result<Self, Fault> {
        let Some(jobs) = &state.front.jobs else {
            let message = "the Batch API (/v1/files, /v1/batches) is switched off; a table \
                           [batch_api] with `directory = \"/var/lib/batchwise\"` in models.toml \
                           switches it on at the next start";
            return Err(Fault::new(FaultKind::UnknownRoute, message));
        };
        let caller = caller(headers, state.front.trust_tenant_header)?;
        Ok(Self { jobs: Arc::clone(jobs), owner: jobs.owner(caller) })
    }
}

/// Answers, or tells why not; a refusal is counted.
fn answered(state: &HttpState, outcome: Result<Response, Fault>) -> Response {
    let outcome = Visit::new(&state.front, Via::BatchApi).end(outcome);
    outcome.unwrap_or_else(|fault| OpenAiFault::from(fault).into_response())
}

/// What the query of a list says.
#[derive(Debug, Deserialize)]
struct ListQuery {
    after: Option<String>,
    limit: Option<String>,
    order: Option<String>,
    purpose: Option<String>,
}

impl ListQuery {
    /// # Errors
    /// When the query cannot be read.
    fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Fault> {
        let read = query.map(|Query(query)| query);
        read.map_err(|error| Fault::invalid("query", format!("the query is malformed: {error}")))
    }

    /// # Errors
    /// When a parameter is out of bounds.
    fn page(&self, default: usize, most: usize) -> Result<Page, Fault> {
        let limit = match self.limit.as_deref() {
            None => default,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
                limit.ok_or_else(|| {
                    Fault::invalid("limit", format!("'limit' must be a number from 1 to {most}"))
                })?
            }
        };
        let is_ascending = match self.order.as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(Fault::invalid("order", "'order' must be \"asc\" or \"desc\"")),
        };
        let after = self.after.clone().filter(|after| !after.is_empty());
        Ok(Page { after, limit, is_ascending })
    }
}
