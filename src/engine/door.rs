//! What an engine lets fronts know, so that a call which it would refuse is refused before its body
//! is read.

use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::call::{Fault, FaultKind};
use crate::lane::{RefuseReason, TenantId, TurnedAway};

/// How long the word of an engine holds that has not been heard of since: whatever makes it change
/// its mind wakes it, but for time alone.
const HOLDS_FOR: Duration = Duration::from_millis(500);

/// Whom an engine refuses at this moment.
#[derive(Debug, Default)]
pub(super) struct Door(ArcSwapOption<Closed>);

#[derive(Debug)]
struct Closed {
    whom: TurnedAway,
    advice: Duration,
    until: Instant,
}

impl Door {
    /// The engine's word, with what it says about coming back.
    pub(super) fn set(&self, whom: Option<TurnedAway>, advice: impl FnOnce() -> Duration) {
        match whom {
            Some(whom) => {
                let until = Instant::now() + HOLDS_FOR;
                self.0.store(Some(Closed { whom, advice: advice(), until }.into()));
            }
            None if self.0.load().is_some() => self.0.store(None),
            None => {}
        }
    }

    /// Why a call of this priority and tenant would be refused.
    pub(super) fn refusal(
        &self,
        model: &str,
        priority: u8,
        tenant: Option<TenantId>,
    ) -> Option<Fault> {
        let closed = self.0.load();
        let Closed { whom, advice, until } = closed.as_deref()?;
        let is_meant = priority > whom.from_priority && priority <= whom.to_priority
            || priority == whom.from_priority && whom.tenant.is_none_or(|meant| meant == tenant);
        if !is_meant || Instant::now() >= *until {
            return None;
        }
        Some(match whom.reason {
            RefuseReason::Draining => draining(),
            RefuseReason::NoInstance(after) => no_instance(model, after.into()),
            _ => queue_full(model, *advice),
        })
    }

    /// Whether every call would be refused for want of an instance.
    pub(super) fn is_without_instance(&self) -> bool {
        self.0.load().as_deref().is_some_and(|closed| {
            matches!(closed.whom.reason, RefuseReason::NoInstance(_))
                && Instant::now() < closed.until
        })
    }
}

pub(super) fn queue_full(model: &str, advice: Duration) -> Fault {
    let message = format!("the queue of model '{model}' is full");
    Fault::new(FaultKind::QueueFull, message).with_retry_after(advice)
}

pub(super) fn no_instance(model: &str, after: Duration) -> Fault {
    let message = format!("no instance of model '{model}' is usable");
    Fault::new(FaultKind::NoInstance, message).with_retry_after(after)
}

/// The server takes no calls any more.
pub fn draining() -> Fault {
    Fault::new(FaultKind::Draining, "the server is shutting down")
        .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(door: &Door, priority: u8) -> Option<FaultKind> {
        door.refusal("m", priority, None).map(|fault| fault.kind)
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_those_that_the_engine_named_for_as_long_as_its_word_holds() {
        let door = Door::default();
        let whom = TurnedAway {
            from_priority: 2,
            to_priority: 3,
            tenant: Some(None),
            reason: RefuseReason::QueueFull,
        };
        door.set(Some(whom), || Duration::from_secs(3));
        assert_eq!((kind(&door, 1), kind(&door, 2)), (None, Some(FaultKind::QueueFull)));
        assert_eq!(kind(&door, 4), None, "there is room for the level below");
        assert_eq!(door.refusal("m", 3, None).unwrap().retry_after, Some(Duration::from_secs(3)));
        let other = Some(TenantId(7));
        assert!(door.refusal("m", 2, other).is_none() && door.refusal("m", 3, other).is_some());
        tokio::time::advance(HOLDS_FOR).await;
        assert_eq!(kind(&door, 3), None);
        door.set(Some(whom), || Duration::ZERO);
        door.set(None, || Duration::ZERO);
        assert_eq!(kind(&door, 3), None);
    }
}
