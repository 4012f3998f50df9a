//! Clumps: after one arrival others often follow at once, and a short wait collects them.
//!
//! The gaps between arrivals are kept in bins that double in width, in units of the mean gap. In
//! each bin the hazard (arrivals over time spent waiting) is compared with what the arrivals of a
//! service time are worth: while the next arrival is much likelier now than on average, holding
//! pays. Poisson arrivals have the same hazard at every age, and are never held for.

const BINS: usize = 18;
/// The first bin ends at this share of the mean gap.
const FIRST: f64 = 1.0 / 512.0;
/// Arrivals between two decays, and what is kept.
const DECAY_EVERY: u32 = 64;
const KEPT: f64 = 0.97;
/// What is kept when somebody was held in vain.
const KEPT_AFTER_MISS: f64 = 0.5;

/// Nobody is waited for longer than this share of the time that one row takes.
const LONGEST: f64 = 0.25;

/// What is known of the gaps between arrivals.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    counts: [f64; BINS],
    /// Time spent at an age within each bin, in mean gaps.
    spent: [f64; BINS],
    seen: u32,
    /// Arrivals in the service time of one row before each arrival, smoothed.
    neighbours: f64,
}

impl Gaps {
    /// An arrival came `gap` milliseconds after the one before, at a mean rate of `rate` a
    /// millisecond; `recent` others came in the last service time of one row.
    pub(super) fn arrived(&mut self, gap: f64, rate: f64, recent: f64) {
        let age = gap * rate;
        // Without a rate every gap would look short.
        if !age.is_finite() || rate <= 0.0 {
            return;
        }
        self.seen = self.seen.saturating_add(1);
        if self.seen.is_multiple_of(DECAY_EVERY) {
            for value in self.counts.iter_mut().chain(&mut self.spent) {
                *value *= KEPT;
            }
        }
        let mut start = 0.0;
        for bin in 0..BINS {
            let end = end_of(bin);
            self.spent[bin] += age.min(end) - start;
            if age <= end || bin == BINS - 1 {
                self.counts[bin] += 1.0;
                break;
            }
            start = end;
        }
        self.neighbours += (recent - self.neighbours) / f64::from(self.seen.min(256));
    }

    /// Somebody was held for more to come, and nobody came: what was seen may not hold any more.
    pub(super) fn missed(&mut self) {
        for value in self.counts.iter_mut().chain(&mut self.spent) {
            *value *= KEPT_AFTER_MISS;
        }
    }

    /// How long after the last arrival it pays to wait for more, in milliseconds, when `waiting` rows
    /// wait, one row takes `service` and `rate` arrive in a millisecond.
    pub(super) fn horizon(&self, waiting: f64, service: f64, rate: f64) -> f64 {
        if self.seen < DECAY_EVERY || rate <= 0.0 {
            return 0.0;
        }
        let (mut silent, mut gain, mut start) = (1.0, 0.0, 0.0);
        let mut best = (0.0, 0.0);
        for bin in 0..BINS {
            let end = end_of(bin);
            let (count, spent) = (self.counts[bin], self.spent[bin]);
            // Who comes later than that finds the instance half done at worst; and callers that send
            // again when they are answered would be waited for in vain.
            if count <= 0.0 && spent <= 0.0 || start / rate > LONGEST * service {
                break;
            }
            // Gaps that end just inside a bin tell of its edge, not of its whole width: even ones that
            // are a hair longer than the mean would else make it look as if somebody always came.
            let spent = spent.max(count * (end - start) / 2.0);
            // Two standard deviations below what was counted: a hold must be sure of its worth.
            let sure = (count - 2.0 * count.sqrt()).max(0.0) / spent * rate;
            let width = (end - start) / rate;
            let ends_within = 1.0 - (-count / spent * (end - start)).exp();
            let worth = (sure - self.neighbours / service) * service - waiting;
            // The bin is left early when somebody comes.
            gain += silent * width * worth;
            silent *= 1.0 - ends_within;
            if gain > best.1 {
                best = ((end / rate).min(LONGEST * service), gain);
            }
            start = end;
        }
        best.0
    }
}

fn end_of(bin: usize) -> f64 {
    FIRST * f64::from(1_u32 << bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_are_not_waited_for() {
        let mut gaps = Gaps::default();
        for _ in 0..1000 {
            gaps.arrived(2.0, 0.5, 5.0);
        }
        assert_eq!(gaps.horizon(1.0, 10.0, 0.5), 0.0);
    }

    #[test]
    fn a_caller_who_sends_again_when_answered_is_not_waited_for() {
        let mut gaps = Gaps::default();
        for _ in 0..1000 {
            gaps.arrived(10.9, 1.0 / 10.9, 0.0);
        }
        assert_eq!(gaps.horizon(1.0, 10.5, 1.0 / 10.9), 0.0);
    }

    #[test]
    fn holding_in_vain_is_soon_given_up() {
        let mut gaps = Gaps::default();
        for arrival in 0..4000 {
            let first = arrival % 8 == 0;
            gaps.arrived(if first { 79.3 } else { 0.1 }, 0.1, f64::from(arrival % 8));
        }
        let misses = (0..20).take_while(|_| {
            let holds = gaps.horizon(1.0, 10.0, 0.1) > 0.0;
            gaps.missed();
            holds
        });
        assert!((1..12).contains(&misses.count()));
    }

    #[test]
    fn gaps_of_which_nothing_can_be_said_are_not_counted() {
        let mut gaps = Gaps::default();
        for arrival in 0..200 {
            gaps.arrived(10.9, if arrival < 8 { 0.0 } else { 1.0 / 10.9 }, 0.0);
        }
        assert_eq!(gaps.horizon(1.0, 10.5, 1.0 / 10.9), 0.0);
    }

    #[test]
    fn a_burst_is_collected() {
        let mut gaps = Gaps::default();
        for arrival in 0..4000 {
            let first = arrival % 8 == 0;
            gaps.arrived(if first { 79.3 } else { 0.1 }, 0.1, f64::from(arrival % 8));
        }
        let wait = gaps.horizon(1.0, 10.0, 0.1);
        assert!((0.1..2.0).contains(&wait), "{wait}");
    }
}
