//! What a caller says in headers: deadline, priority, trace.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::request_id::RequestId;
use crate::call::{Fault, Terms, TraceContext};
use crate::engine::Model;
use crate::front::tenant::tenant;
use crate::front::timeout_header::deadline;
use crate::wire::parameters::Scheduling;

const PRIORITY: HeaderName = HeaderName::from_static("x-request-priority");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The terms of a call to `model` that arrived at `arrived`.
///
/// # Errors
/// When a header has no sense; the fault names it.
pub(super) fn read(
    headers: &HeaderMap,
    id: &RequestId,
    model: &Model,
    arrived: Instant,
    trust_tenant_header: bool,
) -> Result<Terms, Fault> {
    let deadline = deadline(headers, arrived)?;
    let priority = match number(headers, &PRIORITY)? {
        None | Some(0) => None,
        Some(level) => Some(priority_of(level, model, PRIORITY.as_str())?),
    };
    let text = |name| headers.get(name)?.to_str().ok().map(str::to_owned);
    let trace = text(TRACEPARENT).map(|parent| TraceContext { parent, state: text(TRACESTATE) });
    let tenant = tenant(headers, trust_tenant_header)?;
    Ok(Terms { request_id: id.as_str().to_owned(), priority, deadline, trace, tenant })
}

/// Whether the headers say how urgent a call is, be it that it is no more so than others.
pub(super) fn name_a_priority(headers: &HeaderMap) -> bool {
    headers.contains_key(PRIORITY)
}

/// Adds what the request's parameters say: their priority wins over the header's, as the more
/// particular; of two deadlines the sooner counts.
///
/// # Errors
/// When the priority is not one of the model's.
pub(super) fn add_scheduling(
    terms: &mut Terms,
    scheduling: Scheduling,
    model: &Model,
    arrived: Instant,
) -> Result<(), Fault> {
    if let Some(level) = scheduling.priority {
        terms.priority = Some(priority_of(level, model, "priority")?);
    }
    let own =
        scheduling.timeout_us.and_then(|micros| arrived.checked_add(Duration::from_micros(micros)));
    terms.deadline = match (terms.deadline, own) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    };
    Ok(())
}

fn priority_of(level: u64, model: &Model, field: &str) -> Result<u8, Fault> {
    let levels = model.plan().priority_levels;
    u8::try_from(level).ok().filter(|level| (1..=levels).contains(level)).ok_or_else(|| {
        let message = format!(
            "{field} is {level}, but model '{}' has the priorities 1 (the most urgent) to \
             {levels}, and 0 for the default",
            model.name()
        );
        Fault::invalid(field.to_owned(), message)
    })
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Fault> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| wrong(name, "a whole number of 0 or more"))
}

fn wrong(name: &HeaderName, right: &str) -> Fault {
    Fault::invalid(name.as_str().to_owned(), format!("header {name} must be {right}"))
}
