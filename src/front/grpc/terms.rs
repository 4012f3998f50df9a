//! What a gRPC caller says about a call besides the work.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::super::request_id::{X_REQUEST_ID, fresh_id, is_sane};
use super::super::tenant::tenant;
use super::super::timeout_header;
use crate::call::{Fault, Terms, TraceContext};
use crate::wire::frame::parse_timeout;
use crate::wire::parameters::Scheduling;

/// The terms of a call, from its metadata and its parameters. Of two deadlines the sooner counts; of
/// two priorities the parameter's, as the more particular.
///
/// `deadline` is what the metadata says of it, `arrived` when the request itself came.
pub(super) fn terms(
    headers: &HeaderMap,
    id: &str,
    scheduling: Scheduling,
    arrived: Instant,
    deadline: Option<Instant>,
    trust_tenant_header: bool,
) -> Result<Terms, Fault> {
    let header_priority = match headers.get("x-request-priority") {
        None => None,
        Some(value) => {
            let parsed = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
            Some(parsed.ok_or_else(|| {
                Fault::invalid("x-request-priority", "x-request-priority is not a whole number")
            })?)
        }
    };
    let priority = scheduling.priority.or(header_priority).filter(|&level| level > 0);
    let own = scheduling.timeout_us.map(Duration::from_micros);
    let own = own.and_then(|timeout| arrived.checked_add(timeout));
    Ok(Terms {
        request_id: request_id(headers).unwrap_or_else(|| sane(id).unwrap_or_else(fresh_id)),
        // A level beyond any model's is refused by the model, which knows its levels.
        priority: priority.map(|level| u8::try_from(level).unwrap_or(u8::MAX)),
        deadline: [deadline, own].into_iter().flatten().min(),
        trace: trace(headers),
        tenant: tenant(headers, trust_tenant_header)?,
    })
}

/// When the caller of a call that arrived at `arrived` stops waiting, as its metadata says.
pub(super) fn deadline(headers: &HeaderMap, arrived: Instant) -> Result<Option<Instant>, Fault> {
    let own = headers.get("grpc-timeout").and_then(parse_timeout);
    let own = own.and_then(|timeout| arrived.checked_add(timeout));
    let told = timeout_header::deadline(headers, arrived)?;
    Ok([own, told].into_iter().flatten().min())
}

fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get("traceparent")?.to_str().ok()?.to_owned();
    let state = headers.get("tracestate").and_then(|state| state.to_str().ok());
    Some(TraceContext { parent, state: state.map(str::to_owned) })
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    sane(headers.get(X_REQUEST_ID)?.to_str().ok()?)
}

fn sane(id: &str) -> Option<String> {
    is_sane(id.as_bytes()).then(|| id.to_owned())
}

/// Puts a request id into the headers of a reply.
pub(super) fn set_request_id(headers: &mut HeaderMap, id: &str) {
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Puts the request id of a call, or a new one, into the headers of its reply.
pub(super) fn echo_request_id(request: &HeaderMap, reply: &mut HeaderMap) {
    set_request_id(reply, &request_id(request).unwrap_or_else(fresh_id));
}
