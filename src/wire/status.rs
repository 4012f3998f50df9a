//! What a fault is called on each wire: the one table.

use std::time::Duration;

use http::StatusCode;
use tonic::Code;

use crate::call::{Fault, FaultKind};

/// When to come back where nobody knows.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a kind of fault is called on each wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status.
    pub http: StatusCode,
    /// The gRPC status code.
    pub grpc: Code,
    /// The `type` of an OpenAI error.
    pub openai_type: &'static str,
    /// The `code` of an OpenAI error.
    pub openai_code: Option<&'static str>,
    /// The `x-batchwise-reason` header.
    pub reason: &'static str,
    /// Whether sending the same request again can help.
    pub retry_helps: bool,
}

const fn status(
    http: StatusCode,
    grpc: Code,
    openai_type: &'static str,
    openai_code: Option<&'static str>,
    reason: &'static str,
    retry_helps: bool,
) -> Status {
    Status { http, grpc, openai_type, openai_code, reason, retry_helps }
}

/// The status of a kind of fault.
pub fn of_kind(kind: FaultKind) -> Status {
    use StatusCode as H;
    let invalid = "invalid_request_error";
    let server = "server_error";
    match kind {
        FaultKind::InvalidRequest => {
            status(H::BAD_REQUEST, Code::InvalidArgument, invalid, None, "invalid_request", false)
        }
        FaultKind::UnknownModel => status(
            H::NOT_FOUND,
            Code::NotFound,
            invalid,
            Some("model_not_found"),
            "unknown_model",
            false,
        ),
        FaultKind::UnknownObject => {
            status(H::NOT_FOUND, Code::NotFound, invalid, None, "unknown_object", false)
        }
        FaultKind::UnknownRoute => status(
            H::NOT_FOUND,
            Code::Unimplemented,
            invalid,
            Some("unknown_url"),
            "unknown_route",
            false,
        ),
        FaultKind::MethodNotAllowed => status(
            H::METHOD_NOT_ALLOWED,
            Code::Unimplemented,
            invalid,
            Some("method_not_allowed"),
            "method_not_allowed",
            false,
        ),
        FaultKind::Unimplemented => status(
            H::NOT_IMPLEMENTED,
            Code::Unimplemented,
            invalid,
            Some("unsupported"),
            "unsupported",
            false,
        ),
        FaultKind::TooLarge => status(
            H::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted,
            invalid,
            Some("request_too_large"),
            "too_large",
            false,
        ),
        FaultKind::BuffersFull | FaultKind::QueueFull | FaultKind::Shed | FaultKind::Overloaded => {
            status(
                H::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                server,
                Some("overloaded"),
                match kind {
                    FaultKind::BuffersFull => "buffers_full",
                    FaultKind::Shed => "shed",
                    FaultKind::Overloaded => "upstream_overloaded",
                    _ => "queue_full",
                },
                true,
            )
        }
        FaultKind::Draining => status(
            H::SERVICE_UNAVAILABLE,
            Code::Unavailable,
            server,
            Some("draining"),
            "draining",
            true,
        ),
        FaultKind::NoInstance => status(
            H::SERVICE_UNAVAILABLE,
            Code::Unavailable,
            server,
            Some("no_capacity"),
            "no_instance",
            true,
        ),
        FaultKind::Upstream => status(
            H::BAD_GATEWAY,
            Code::Unavailable,
            server,
            Some("upstream_error"),
            "upstream_error",
            true,
        ),
        FaultKind::Deadline => status(
            H::GATEWAY_TIMEOUT,
            Code::DeadlineExceeded,
            "timeout_error",
            Some("deadline_exceeded"),
            "deadline",
            false,
        ),
        FaultKind::Refused => {
            status(H::BAD_REQUEST, Code::InvalidArgument, invalid, None, "upstream_refused", false)
        }
        FaultKind::Internal => status(
            H::INTERNAL_SERVER_ERROR,
            Code::Internal,
            server,
            Some("internal_error"),
            "internal",
            true,
        ),
    }
}

/// The HTTP status of a fault: the instance's own where it refused the request itself.
pub fn http_status(fault: &Fault) -> StatusCode {
    let table = of_kind(fault.kind).http;
    let Some(refusal) = &fault.refusal else { return table };
    match (refusal.http, refusal.grpc) {
        (Some(own), _) => own,
        (None, Some(code)) => http_of_grpc(Code::from_i32(code)),
        (None, None) => table,
    }
}

/// The gRPC code of a fault: the instance's own where it refused the request itself.
pub fn grpc_code(fault: &Fault) -> Code {
    let table = of_kind(fault.kind).grpc;
    let Some(refusal) = &fault.refusal else { return table };
    match (refusal.grpc, refusal.http) {
        (Some(own), _) => Code::from_i32(own),
        (None, Some(status)) => grpc_of_http(status),
        (None, None) => table,
    }
}

/// When to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAdvice {
    /// Whole, at least 1, at most 60.
    pub seconds: u64,
    /// At most 60,000.
    pub millis: u64,
}

/// When to come back, for every fault that says that there is too much to do (429 and 503 over
/// HTTP), whether or not it is known when there will be less.
pub fn retry_advice(fault: &Fault) -> Option<RetryAdvice> {
    if !is_overload(fault) {
        return None;
    }
    let after = fault.retry_after.unwrap_or(RETRY_AFTER).as_millis();
    let millis = u64::try_from(after).unwrap_or(u64::MAX).min(60_000);
    Some(RetryAdvice { seconds: millis.div_ceil(1000).max(1), millis })
}

/// Whether sending the same request again can help.
pub fn retry_helps(fault: &Fault) -> bool {
    of_kind(fault.kind).retry_helps || is_overload(fault)
}

fn is_overload(fault: &Fault) -> bool {
    matches!(http_status(fault), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// Triton's mapping, which its clients know.
fn http_of_grpc(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn grpc_of_http(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Refusal;

    #[test]
    fn a_refusal_keeps_its_own_status_on_both_wires() {
        let refused = |http, grpc| {
            Fault::new(FaultKind::Refused, "no").with_refusal(Refusal {
                http,
                grpc,
                body: None,
                content_type: None,
            })
        };
        let over_http = refused(Some(StatusCode::UNPROCESSABLE_ENTITY), None);
        assert_eq!(http_status(&over_http), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(grpc_code(&over_http), Code::InvalidArgument);
        let over_grpc = refused(None, Some(Code::NotFound as i32));
        assert_eq!(http_status(&over_grpc), StatusCode::NOT_FOUND);
        assert_eq!(grpc_code(&over_grpc), Code::NotFound);
    }

    #[test]
    fn overload_says_when_to_come_back_within_bounds() {
        let advice = |kind, after: Option<u64>| {
            let mut fault = Fault::new(kind, "why");
            fault.retry_after = after.map(Duration::from_millis);
            retry_advice(&fault).map(|RetryAdvice { seconds, millis }| (seconds, millis))
        };
        let full = |after| advice(FaultKind::QueueFull, Some(after));
        assert_eq!(full(0), Some((1, 0)));
        assert_eq!(full(1), Some((1, 1)));
        assert_eq!(full(1001), Some((2, 1001)));
        assert_eq!(full(90_000), Some((60, 60_000)));
        assert_eq!(advice(FaultKind::NoInstance, None), Some((1, 1000)));
        assert_eq!(advice(FaultKind::Deadline, Some(5)), None);
        let own = Refusal { http: Some(StatusCode::TOO_MANY_REQUESTS), ..no_refusal() };
        let refused = Fault::new(FaultKind::Refused, "no").with_refusal(own);
        assert!(retry_advice(&refused).is_some() && retry_helps(&refused));
        assert!(!retry_helps(&Fault::new(FaultKind::Refused, "no")));
    }

    fn no_refusal() -> Refusal {
        Refusal { http: None, grpc: None, body: None, content_type: None }
    }
}
