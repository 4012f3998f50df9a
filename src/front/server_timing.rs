//! Where a call's time went, as a header or as metadata of its reply.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue, InvalidHeaderValue};

use crate::call::Timing;

pub(super) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// `queue;dur=MS, batch;dur=MS;desc="ROWS"`
pub(super) fn server_timing(timing: &Timing) -> Result<HeaderValue, InvalidHeaderValue> {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (queue, batch, rows) = (millis(timing.queue), millis(timing.batch), timing.rows);
    HeaderValue::try_from(format!("queue;dur={queue:.3}, batch;dur={batch:.3};desc=\"{rows}\""))
}
