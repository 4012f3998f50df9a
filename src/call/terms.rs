//! What a caller says about a call besides the work.

use std::sync::Arc;

use tokio::time::Instant;

/// A W3C trace context, passed on as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub parent: String,
    /// The `tracestate` header.
    pub state: Option<String>,
}

/// What a caller says about a call besides the work.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Echoed in the reply, the log and towards the instance.
    pub request_id: String,
    /// 1 is the most urgent; `None` for the model's default.
    pub priority: Option<u8>,
    /// When the caller stops waiting; `None` for the model's time-out.
    pub deadline: Option<Instant>,
    /// The trace that the call is part of.
    pub trace: Option<TraceContext>,
    /// Who the call is from: at most 128 bytes, and never a credential itself. `None` when nothing
    /// says so.
    pub tenant: Option<Arc<str>>,
}
