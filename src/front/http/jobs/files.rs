//! Files.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_util::io::ReaderStream;

use super::super::body::Unread;
use super::super::problem::OpenAiFault;
use super::super::{HttpState, reply};
use super::multipart::receive;
use super::{ListQuery, Seat, answered};
use crate::call::Fault;
use crate::front::timeout_header::deadline;
use crate::front::visit::Visit;
use crate::jobs::{FileObject, FileRecord};
use crate::telemetry::Via;

/// Members of a list unless it is said how many, and at most.
const LISTED: (usize, usize) = (10_000, 10_000);
/// Bytes of a file that are read at once.
const READ_AT_ONCE: usize = 64 << 10;
/// Files are what their owners sent: no browser is to run them.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(super) async fn create(State(state): State<Arc<HttpState>>, request: Request) -> Response {
    let mut visit = Visit::new(&state.front, Via::BatchApi);
    let (parts, mut body) = Unread::of(request);
    let created = take_in(&state, &mut visit, &parts.headers, &mut body).await;
    match visit.end(created) {
        Ok(file) => reply::json(&file),
        Err(fault) => body.dismiss(&parts, OpenAiFault::from(fault).into_response()).await,
    }
}

async fn take_in(
    state: &HttpState,
    visit: &mut Visit,
    headers: &HeaderMap,
    body: &mut Unread,
) -> Result<FileObject, Fault> {
    let seat = Seat::take(state, headers)?;
    state.front.admits_calls()?;
    let intake = state.front.intake(deadline(headers, visit.arrived())?);
    receive(&seat.jobs, &seat.owner, headers, body, &intake).await
}

pub(super) async fn list(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<ListQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let listed = || {
        let seat = Seat::take(&state, &headers)?;
        let query = ListQuery::read(query)?;
        let page = query.page(LISTED.0, LISTED.1)?;
        let purpose = query.purpose.as_deref().filter(|purpose| !purpose.is_empty());
        Ok(reply::json(&seat.jobs.files(&seat.owner, purpose, &page)?))
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
        Ok(reply::json(&seat.jobs.file(&seat.owner, &id)?))
    };
    answered(&state, found())
}

pub(super) async fn delete(
    State(state): State<Arc<HttpState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let deleted = async {
        let seat = Seat::take(&state, &headers)?;
        Ok(reply::json(&seat.jobs.delete_file(&seat.owner, &id).await?))
    };
    answered(&state, deleted.await)
}

pub(super) async fn content(
    State(state): State<Arc<HttpState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let found = async {
        let seat = Seat::take(&state, &headers)?;
        let (record, content) = seat.jobs.content(&seat.owner, &id).await?;
        let content = ReaderStream::with_capacity(content, READ_AT_ONCE);
        let mut response = Response::new(Body::from_stream(content));
        *response.headers_mut() = content_headers(&record);
        Ok(response)
    };
    answered(&state, found.await)
}

fn content_headers(record: &FileRecord) -> HeaderMap {
    let name = utf8_percent_encode(&record.filename, NON_ALPHANUMERIC);
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, OCTETS);
    headers.insert(CONTENT_LENGTH, record.bytes.into());
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename*=UTF-8''{name}")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    headers
}
