//! The states of a batch, as OpenAI's clients know them, and what leads from one to the next.
//!
//! ```text
//!   validating ---> in_progress ---> finalizing ---> completed
//!     |   |  |        |    |            ^    |
//!     |   |  +--------|----+ (overdue) -+    +-----> expired
//!     |   +-----------+--> cancelling -------------> cancelled
//!     +---------------------------------------------> failed
//! ```
//!
//! Time is an argument: nothing here reads a clock.

use serde::{Deserialize, Serialize};

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    Validating,
    Failed,
    InProgress,
    Finalizing,
    Completed,
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    /// Its name in replies and metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::Failed => "failed",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will happen to it any more.
    pub(super) const fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// What may happen to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// The input is fine.
    Validated,
    /// The input is wrong.
    Refused,
    /// Every line is answered.
    Answered,
    /// The time is up.
    WindowClosed,
    /// Its owner does not want it any more.
    CancelAsked,
    /// The files that it leaves can be fetched.
    Delivered,
}

/// Where a batch is and when it came there; times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) status: Status,
    /// Whether it is finalizing because the time is up.
    pub(super) overdue: bool,
    pub(super) expires_at: u64,
    pub(super) in_progress_at: Option<u64>,
    pub(super) finalizing_at: Option<u64>,
    pub(super) completed_at: Option<u64>,
    pub(super) failed_at: Option<u64>,
    pub(super) expired_at: Option<u64>,
    pub(super) cancelling_at: Option<u64>,
    pub(super) cancelled_at: Option<u64>,
}

impl State {
    /// A batch that was just created.
    pub(super) fn new(expires_at: u64) -> Self {
        Self {
            status: Status::Validating,
            overdue: false,
            expires_at,
            in_progress_at: None,
            finalizing_at: None,
            completed_at: None,
            failed_at: None,
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
        }
    }

    /// What becomes of it; `None` when that changes nothing.
    pub(super) fn on(mut self, happening: Happening, now: u64) -> Option<Self> {
        use Happening as H;
        use Status as S;
        let (status, reached) = match (self.status, happening) {
            (S::Validating, H::Validated) => (S::InProgress, &mut self.in_progress_at),
            (S::Validating, H::Refused) => (S::Failed, &mut self.failed_at),
            (S::Validating | S::InProgress, H::CancelAsked) => {
                (S::Cancelling, &mut self.cancelling_at)
            }
            (S::Validating | S::InProgress, H::WindowClosed) => {
                self.overdue = true;
                (S::Finalizing, &mut self.finalizing_at)
            }
            (S::InProgress, H::Answered) => (S::Finalizing, &mut self.finalizing_at),
            (S::Finalizing, H::Delivered) if self.overdue => (S::Expired, &mut self.expired_at),
            (S::Finalizing, H::Delivered) => (S::Completed, &mut self.completed_at),
            (S::Cancelling, H::Delivered) => (S::Cancelled, &mut self.cancelled_at),
            _ => return None,
        };
        *reached = Some(now);
        self.status = status;
        Some(self)
    }

    /// When it ended.
    pub(super) fn ended_at(&self) -> Option<u64> {
        self.completed_at.or(self.failed_at).or(self.expired_at).or(self.cancelled_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HAPPENINGS: [Happening; 6] = [
        Happening::Validated,
        Happening::Refused,
        Happening::Answered,
        Happening::WindowClosed,
        Happening::CancelAsked,
        Happening::Delivered,
    ];

    fn after(happenings: &[Happening]) -> State {
        let mut state = State::new(100);
        for (now, happening) in (1..).zip(happenings) {
            state = state.on(*happening, now).unwrap_or(state);
        }
        state
    }

    #[test]
    fn each_way_ends_where_it_should_with_its_times() {
        use Happening as H;
        let done = after(&[H::Validated, H::Answered, H::Delivered]);
        assert_eq!(done.status, Status::Completed);
        let times = (done.in_progress_at, done.finalizing_at, done.completed_at);
        assert_eq!(times, (Some(1), Some(2), Some(3)));
        assert_eq!(after(&[H::Refused]).failed_at, Some(1));
        let cancelled = after(&[H::Validated, H::CancelAsked, H::Answered, H::Delivered]);
        assert_eq!((cancelled.status, cancelled.cancelling_at), (Status::Cancelled, Some(2)));
        assert_eq!((cancelled.cancelled_at, cancelled.completed_at), (Some(4), None));
        let late = after(&[H::Validated, H::WindowClosed, H::Delivered]);
        assert_eq!((late.status, late.expired_at), (Status::Expired, Some(3)));
        assert_eq!(after(&[H::WindowClosed, H::Delivered]).status, Status::Expired);
        assert_eq!(after(&[H::CancelAsked, H::Delivered]).status, Status::Cancelled);
        let too_late = after(&[H::Validated, H::Answered, H::CancelAsked, H::WindowClosed]);
        assert_eq!((too_late.status, too_late.overdue), (Status::Finalizing, false));
    }

    proptest! {
        #[test]
        fn an_end_is_final_and_has_exactly_one_time(
            happenings in prop::collection::vec(prop::sample::select(HAPPENINGS.to_vec()), 0..12)
        ) {
            let state = after(&happenings);
            let ends = [state.completed_at, state.failed_at, state.expired_at, state.cancelled_at];
            let reached = ends.iter().flatten().count();
            prop_assert_eq!(reached, usize::from(state.status.is_final()));
            prop_assert_eq!(state.ended_at().is_some(), state.status.is_final());
            if state.status.is_final() {
                for happening in HAPPENINGS {
                    prop_assert_eq!(state.on(happening, 99), None);
                }
            }
        }
    }
}
