//! Why an instance has no answer, and whose fault that is.

use std::time::Duration;

use crate::call::{Fault, FaultKind};
use crate::lane::Blame;

/// Why a batch has no answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the lane is to make of it.
    pub blame: Blame,
    /// What the callers are to hear when nothing else helps.
    pub fault: Fault,
}

impl Failure {
    /// The connection could not be made.
    pub fn connection(message: impl Into<String>) -> Self {
        Self { blame: Blame::Connection, fault: Fault::new(FaultKind::Upstream, message.into()) }
    }

    /// The connection broke before the reply was whole.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { blame: Blame::Lost, fault: Fault::new(FaultKind::Upstream, message.into()) }
    }

    /// The instance said that it has too much to do.
    pub fn overload(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        let mut fault = Fault::new(FaultKind::Overloaded, message.into());
        fault.retry_after = retry_after;
        Self { blame: Blame::Overload { retry_after: retry_after.map(Into::into) }, fault }
    }

    /// The instance answered that it failed.
    pub fn broken(message: impl Into<String>) -> Self {
        Self { blame: Blame::Broken, fault: Fault::new(FaultKind::Upstream, message.into()) }
    }

    /// The instance answered that the request is wrong; `fault` is passed on to the caller.
    pub fn refused(fault: Fault) -> Self {
        Self { blame: Blame::Refused, fault }
    }

    /// Outputs that do not have the batch's rows.
    pub fn not_batched(message: impl Into<String>) -> Self {
        Self { blame: Blame::NotBatched, fault: Fault::new(FaultKind::Upstream, message.into()) }
    }
}
