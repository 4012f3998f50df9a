//! Batches.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;

use super::super::body::Unread;
use super::super::problem::OpenAiFault;
use super::super::{HttpState, reply};
use super::{ListQuery, Seat, answered};
use crate::call::Fault;
use crate::front::timeout_header::deadline;
use crate::front::visit::Visit;
use crate::jobs::BatchObject;
use crate::telemetry::Via;

/// Bytes of the largest wish for a batch: its requests are in a file.
const LONGEST_WISH: usize = 256 << 10;
/// Members of a list unless it is said how many, and at most.
const LISTED: (usize, usize) = (20, 100);

pub(super) async fn create(State(state): State<Arc<HttpState>>, request: Request) -> Response {
    let mut visit = Visit::new(&state.front, Via::BatchApi);
    let (parts, mut body) = Unread::of(request);
    let created = take_in(&state, &mut visit, &parts.headers, &mut body).await;
    match visit.end(created) {
        Ok(batch) => reply::json(&batch),
        Err(fault) => body.dismiss(&parts, OpenAiFault::from(fault).into_response()).await,
    }
}

async fn take_in(
    state: &HttpState,
    visit: &mut Visit,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<BatchObject, Fault> {
    let seat = Seat::take(state, headers)?;
    let front = &state.front;
    front.admits_calls()?;
    let intake = front.intake(deadline(headers, visit.arrived())?);
    let most = LONGEST_WISH.min(front.max_request_bytes);
    let (body, _lease) = body.read_whole(headers, most, &intake).await?;
    seat.jobs.create(&seat.owner, &body).await
}

pub(super) async fn list(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<ListQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let listed = || {
        let seat = Seat::take(&state, &headers)?;
        let page = ListQuery::read(query)?.page(LISTED.0, LISTED.1)?;
        Ok(reply::json(&seat.jobs.batches(&seat.owner, &page)?))
    };
    answered(&state, listed())
}

pub(super) async fn retrieve(
    State(state): State<Arc<HttpState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let found = || {
        let seat = Seat::take(&state, &headers)?;
        Ok(reply::json(&seat.jobs.batch(&seat.owner, &id)?))
    };
    answered(&state, found())
}

pub(super) async fn cancel(
    State(state): State<Arc<HttpState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let cancelled = async {
        let seat = Seat::take(&state, &headers)?;
        Ok(reply::json(&seat.jobs.cancel(&seat.owner, &id).await?))
    };
    answered(&state, cancelled.await)
}
