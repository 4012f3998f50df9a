//! What an instance's gRPC status means for a batch.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tonic::{Code, Status};

use super::Failure;
use super::http_status::{MAX_RETRY_AFTER, NO_REASON, retry_after};
use crate::call::{Fault, FaultKind, Refusal};
use crate::lane::Blame;

/// A status other than OK.
#[derive(Clone, Debug)]
pub(super) struct GrpcError {
    pub(super) code: Code,
    pub(super) message: String,
    /// When the server wants to be asked again.
    pub(super) pushback: Option<Duration>,
}

impl GrpcError {
    /// The status in headers or trailers: `None` when they hold none.
    pub(super) fn read(headers: &HeaderMap) -> Option<Result<(), Self>> {
        if headers.get("grpc-status")? == "0" {
            return Some(Ok(()));
        }
        let status = Status::from_header_map(headers)?;
        let pushback = headers
            .get("grpc-retry-pushback-ms")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(|millis| Duration::from_millis(millis).min(MAX_RETRY_AFTER))
            .or_else(|| retry_after(headers));
        let message = Some(status.message()).filter(|message| !message.is_empty());
        let message = message.unwrap_or(NO_REASON).to_owned();
        Some(Err(Self { code: status.code(), message, pushback }))
    }

    /// The status that an HTTP status stands for when something between answers without gRPC.
    pub(super) fn of_http(status: StatusCode) -> Self {
        let code = match status.as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        let message = format!("HTTP status {status} instead of a gRPC reply");
        Self { code, message, pushback: None }
    }

    /// What a batch that was answered so failed of.
    pub(super) fn into_failure(self) -> Failure {
        match self.code {
            Code::Unavailable => Failure::overload(self.described(), self.pushback),
            Code::ResourceExhausted if !speaks_of_size(&self.message) => {
                Failure::overload(self.described(), self.pushback)
            }
            Code::ResourceExhausted
            | Code::InvalidArgument
            | Code::NotFound
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated => self.refused(),
            Code::DeadlineExceeded => Failure {
                blame: Blame::TooSlow,
                fault: Fault::new(FaultKind::Deadline, self.described()),
            },
            // An OK has no failure to make, and never comes here.
            Code::Ok
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::Aborted
            | Code::Cancelled => Failure::broken(self.described()),
        }
    }

    fn refused(self) -> Failure {
        let refusal =
            Refusal { http: None, grpc: Some(self.code as i32), body: None, content_type: None };
        Failure::refused(Fault::new(FaultKind::Refused, self.message).with_refusal(refusal))
    }

    pub(super) fn described(&self) -> String {
        format!("the instance answered {:?}: {}", self.code, self.message)
    }
}

/// Whether a text says that one message is too large, which no waiting will mend. gRPC has one code
/// for that and for too much work; the phrases are those of its C++, Go and Java libraries.
fn speaks_of_size(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("message")
        && ["larger than", "exceeds maximum size", "too large"]
            .iter()
            .any(|phrase| message.contains(phrase))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn failure(code: Code, message: &str) -> Failure {
        GrpcError { code, message: message.to_owned(), pushback: None }.into_failure()
    }

    #[test]
    fn every_code_has_its_blame() {
        let codes = (0..=16).map(Code::from_i32);
        for code in codes {
            let blame = failure(code, "why").blame;
            let expected = match code {
                Code::Unavailable | Code::ResourceExhausted => {
                    Blame::Overload { retry_after: None }
                }
                Code::DeadlineExceeded => Blame::TooSlow,
                Code::InvalidArgument
                | Code::NotFound
                | Code::Unimplemented
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated => Blame::Refused,
                _ => Blame::Broken,
            };
            assert_eq!(blame, expected, "{code:?}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_instances_own_words() {
        let fault = failure(Code::InvalidArgument, "unexpected shape for input 'x'").fault;
        assert_eq!(fault.message, "unexpected shape for input 'x'");
        assert_eq!(fault.refusal.unwrap().grpc, Some(3));
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_and_no_overload() {
        for text in [
            "Received message larger than max (5000000 vs. 4194304)",
            "grpc: received message larger than max (5000000 vs. 4194304)",
            "gRPC message exceeds maximum size 4194304: 5000000",
        ] {
            assert_eq!(failure(Code::ResourceExhausted, text).blame, Blame::Refused, "{text}");
        }
    }

    #[test]
    fn status_and_pushback_are_read_from_trailers() {
        let mut trailers = HeaderMap::new();
        assert!(GrpcError::read(&trailers).is_none());
        trailers.insert("grpc-status", HeaderValue::from_static("14"));
        let silent = GrpcError::read(&trailers).unwrap().unwrap_err();
        assert_eq!(silent.message, NO_REASON);
        trailers.insert("grpc-message", HeaderValue::from_static("queue%20full"));
        trailers.insert("grpc-retry-pushback-ms", HeaderValue::from_static("250"));
        let error = GrpcError::read(&trailers).unwrap().unwrap_err();
        assert_eq!(error.message, "queue full");
        let blame = error.into_failure().blame;
        let after = Duration::from_millis(250).into();
        assert_eq!(blame, Blame::Overload { retry_after: Some(after) });
        trailers.insert("grpc-retry-pushback-ms", u64::MAX.into());
        let endless = GrpcError::read(&trailers).unwrap().unwrap_err();
        assert_eq!(endless.pushback, Some(MAX_RETRY_AFTER));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(GrpcError::read(&trailers).unwrap().is_ok());
    }

    #[test]
    fn http_statuses_of_what_stands_between_are_mapped() {
        let blame = |status| GrpcError::of_http(status).into_failure().blame;
        assert_eq!(blame(StatusCode::SERVICE_UNAVAILABLE), Blame::Overload { retry_after: None });
        assert_eq!(blame(StatusCode::NOT_FOUND), Blame::Refused);
        assert_eq!(blame(StatusCode::INTERNAL_SERVER_ERROR), Blame::Broken);
    }
}
