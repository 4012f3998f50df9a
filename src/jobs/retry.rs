//! Whether the call of a line is made again, and when.

use std::time::Duration;

use http::StatusCode;

use crate::call::{Fault, FaultKind};
use crate::wire::status::http_status;

/// Calls for a line that an instance fails, before it is given up.
const ATTEMPTS: u32 = 4;
/// The first pause before another call.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause: a model that is up again idles no longer than that.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What to do about a call that has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is too much to do, or nobody who could do it: wait so long and ask again, however often
    /// that was.
    Wait(Duration),
    /// It failed: ask again after so long, for it need not be the request.
    Again(Duration),
    /// The answer is that it cannot be answered.
    Final,
    /// The process ends; another one will ask.
    Leave,
}

/// How often a line was asked for in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    waits: u32,
    failures: u32,
}

impl Tries {
    /// What to do about the next fault.
    pub(super) fn after(&mut self, fault: &Fault) -> Verdict {
        match (fault.kind, http_status(fault)) {
            (FaultKind::Draining, _) => Verdict::Leave,
            // A reload may have taken the model away, and another may bring it back.
            (FaultKind::UnknownModel, _)
            | (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                let pause = pause(self.waits).max(fault.retry_after.unwrap_or_default());
                self.waits += 1;
                Verdict::Wait(pause.min(LONGEST_PAUSE))
            }
            (_, status) if status.is_server_error() => {
                self.failures += 1;
                if self.failures < ATTEMPTS {
                    Verdict::Again(pause(self.failures))
                } else {
                    Verdict::Final
                }
            }
            _ => Verdict::Final,
        }
    }
}

/// Twice as long each time.
fn pause(times: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << times.min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Refusal;

    #[test]
    fn overload_is_waited_out_without_end() {
        let mut tries = Tries::default();
        for kind in [FaultKind::QueueFull, FaultKind::NoInstance, FaultKind::UnknownModel] {
            for _ in 0..1000 {
                let verdict = tries.after(&Fault::new(kind, "busy"));
                assert!(matches!(verdict, Verdict::Wait(pause) if pause <= LONGEST_PAUSE));
            }
        }
        let told = Fault::new(FaultKind::Shed, "busy").with_retry_after(Duration::from_secs(3));
        assert_eq!(Tries::default().after(&told), Verdict::Wait(Duration::from_secs(3)));
    }

    #[test]
    fn failures_are_final_after_a_few_and_refusals_at_once() {
        let mut tries = Tries::default();
        let broke = Fault::new(FaultKind::Upstream, "broke");
        let verdicts: Vec<_> = (0..4).map(|_| tries.after(&broke)).collect();
        let again = |millis| Verdict::Again(Duration::from_millis(millis));
        assert_eq!(verdicts, [again(500), again(1000), again(2000), Verdict::Final]);
        let after = |fault| Tries::default().after(&fault);
        assert_eq!(after(Fault::invalid("input", "no")), Verdict::Final);
        assert_eq!(after(Fault::new(FaultKind::Draining, "bye")), Verdict::Leave);
        let refused = |status| {
            Fault::new(FaultKind::Refused, "no").with_refusal(Refusal {
                http: Some(status),
                grpc: None,
                body: None,
                content_type: None,
            })
        };
        assert_eq!(after(refused(StatusCode::UNPROCESSABLE_ENTITY)), Verdict::Final);
        let busy = after(refused(StatusCode::TOO_MANY_REQUESTS));
        assert!(matches!(busy, Verdict::Wait(_)), "{busy:?}");
    }
}
