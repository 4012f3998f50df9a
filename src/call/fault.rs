//! Why there is no answer: what happened, to whom it is due, and whether to come back.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

/// What happened; each kind has one status on each wire (see [`crate::wire::status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request is malformed, or a field of it is wrong.
    InvalidRequest,
    /// There is no such model or version.
    UnknownModel,
    /// There is no such file or batch.
    UnknownObject,
    /// There is no such route.
    UnknownRoute,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// The protocol has this call, batchwise does not serve it.
    Unimplemented,
    /// The request is larger than the configured bound.
    TooLarge,
    /// As many bytes of requests are in memory as may be.
    BuffersFull,
    /// The queue is full.
    QueueFull,
    /// The call gave way to a more urgent one.
    Shed,
    /// The process is shutting down.
    Draining,
    /// No instance of the model is usable.
    NoInstance,
    /// The instance broke and the retries are spent.
    Upstream,
    /// The instance was too busy, again and again.
    Overloaded,
    /// The deadline passed.
    Deadline,
    /// The instance refused this very request.
    Refused,
    /// A defect of batchwise itself.
    Internal,
}

/// An instance's own refusal, to be passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its HTTP status, when it spoke HTTP.
    pub http: Option<StatusCode>,
    /// Its gRPC status code, when it spoke gRPC.
    pub grpc: Option<i32>,
    /// Its HTTP body, when it sent one.
    pub body: Option<Bytes>,
    /// The content type of that body.
    pub content_type: Option<String>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// What was wrong, with which field, and what would be right.
    pub message: Cow<'static, str>,
    /// The field that was wrong, as the caller names it.
    pub field: Option<Cow<'static, str>>,
    /// When it is worth coming back.
    pub retry_after: Option<Duration>,
    /// The instance's own words, when [`FaultKind::Refused`]. Boxed: it is rare.
    pub refusal: Option<Box<Refusal>>,
}

impl Fault {
    /// A fault of some kind.
    pub fn new(kind: FaultKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), field: None, retry_after: None, refusal: None }
    }

    /// A request that the caller has to mend.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: Some(field.into()), ..Self::new(FaultKind::InvalidRequest, message) }
    }

    /// The same fault, naming the field.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same fault, saying when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The same fault with the instance's own words.
    #[must_use]
    pub fn with_refusal(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(Box::new(refusal));
        self
    }

    /// The deadline passed.
    pub fn deadline(waited: Duration) -> Self {
        Self::new(
            FaultKind::Deadline,
            format!("the deadline passed after {:.1} ms", waited.as_secs_f64() * 1e3),
        )
    }
}
