//! How long before an instance is done it gets its next batch.
//!
//! With one slot an instance idles while its answer travels to us and the next batch to it. A batch
//! sent that long ahead arrives when it is wanted, and little is lost by binding it so early. How long
//! the way is shows in the batches themselves: one that was there in time comes back sooner after the
//! one before than it takes by itself, by just that much.

use super::Span;

/// What is tried at first, and beyond what has shown: a way that is longer is found step by step.
const STEP: Span = Span::from_nanos(50_000);
/// Nothing more urgent should come meanwhile.
const LONGEST: Span = Span::from_millis(2);
/// The share of a batch's time that is tried at most.
const SHARE: u64 = 8;
/// Batches in a row that are sent ahead; the next one waits, so that its time tells what it takes.
const IN_A_ROW: u32 = 7;
/// Batches until the way is relied upon.
const ENOUGH: u32 = 16;

/// How long before an instance is done it gets its next batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Lead {
    /// The way there and back, smoothed, in nanoseconds.
    way: f64,
    /// Batches that have shown it.
    shown: u32,
    ahead: u32,
}

impl Lead {
    /// The way to the instance and back; `None` while it has not shown.
    pub(super) fn known_way(&self) -> Option<Span> {
        (self.shown >= ENOUGH).then(|| Span::from_nanos(self.way as u64))
    }

    /// How long ahead of the end of a batch that takes `expected`; `None`: this one is to wait. A `full`
    /// batch loses nothing by going early, and jitter on the way may be longer than the way.
    pub(super) fn of(&self, expected: Span, full: bool) -> Option<Span> {
        let most = Span::from_nanos(expected.as_nanos() / SHARE).min(LONGEST);
        let wanted = Span::from_nanos((self.way * 1.1) as u64 + STEP.as_nanos());
        let ahead = if full { most } else { wanted.min(most) };
        (self.ahead < IN_A_ROW).then_some(ahead)
    }

    /// A batch goes out, ahead of the end of another or not.
    pub(super) fn sent(&mut self, ahead: bool) {
        self.ahead = if ahead { self.ahead + 1 } else { 0 };
    }

    /// A batch that was sent ahead came back sooner by so much than it takes by itself.
    pub(super) fn saved(&mut self, saved: Span) {
        self.shown = self.shown.saturating_add(1);
        self.way += 0.1 * (saved.min(LONGEST).as_nanos() as f64 - self.way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Span = Span::from_millis(20);

    #[test]
    fn it_grows_until_the_way_is_covered() {
        let way = 800_000;
        let mut lead = Lead::default();
        for _ in 0..400 {
            let ahead = lead.of(BATCH, false).unwrap_or_default();
            lead.saved(ahead.min(Span::from_nanos(way)));
        }
        let ahead = lead.of(BATCH, false).unwrap_or_default();
        assert!((way..2 * way).contains(&ahead.as_nanos()), "{ahead:?}");
        assert!(lead.known_way().unwrap_or_default().as_nanos().abs_diff(way) < 10_000);
    }

    #[test]
    fn short_batches_are_not_sent_long_ahead() {
        let mut lead = Lead::default();
        (0..200).for_each(|_| lead.saved(LONGEST));
        assert_eq!(lead.of(Span::from_millis(4), false), Some(Span::from_nanos(500_000)));
        assert_eq!(lead.of(Span::from_secs(1), false), Some(LONGEST));
        assert_eq!(Lead::default().of(Span::from_secs(1), true), Some(LONGEST));
    }

    #[test]
    fn now_and_then_one_waits() {
        let mut lead = Lead::default();
        (0..IN_A_ROW).for_each(|_| lead.sent(true));
        assert_eq!(lead.of(BATCH, false), None);
        lead.sent(false);
        assert!(lead.of(BATCH, false).is_some());
    }
}
