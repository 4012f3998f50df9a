//! How many rows a millisecond arrive.

use std::collections::VecDeque;

use super::millis;
use crate::lane::{Instant, Span};

/// Arrivals that are remembered.
const REMEMBERED: usize = 1024;
/// Rows that a window has at least: fewer would measure chance.
const SHORTEST: f64 = 128.0;
/// Batch times that a window spans: a shorter one would measure its own batch.
const BATCHES: f64 = 4.0;
/// Rows before anything is said.
const ENOUGH: u64 = 8;

/// The rate of arrivals, by the time that the latest k rows took; k spans a few batches.
///
/// Silence lowers the rate by itself, because the time runs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    /// When, and how many rows there had been until then.
    arrivals: VecDeque<(Instant, u64)>,
    rows: u64,
}

impl Rate {
    pub(super) fn arrived(&mut self, now: Instant, rows: u32) {
        if self.arrivals.len() == REMEMBERED {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((now, self.rows));
        self.rows += u64::from(rows);
    }

    /// Rows a millisecond, where a batch takes `batch_millis`; 0 while little is known.
    pub(super) fn per_milli(&self, now: Instant, batch_millis: f64) -> f64 {
        let Some(&(first, before_first)) = self.arrivals.front() else { return 0.0 };
        let seen = self.rows - before_first;
        if seen < ENOUGH {
            return 0.0;
        }
        let span = |since: Instant| millis(now.since(since)).max(1e-6);
        let rough = seen as f64 / span(first);
        // Two rounds: the rate of the whole memory may be far from that of now.
        let once = self.over(now, BATCHES * rough * batch_millis).unwrap_or(rough);
        self.over(now, BATCHES * once * batch_millis).unwrap_or(once)
    }

    /// Calls that came within `span` before now.
    pub(super) fn calls_within(&self, now: Instant, span: Span) -> usize {
        let since = now - span;
        self.arrivals.len() - self.arrivals.partition_point(|&(at, _)| at < since)
    }

    /// The rate over the latest `window` rows, or over as many as are remembered.
    fn over(&self, now: Instant, window: f64) -> Option<f64> {
        let window = window.clamp(SHORTEST, REMEMBERED as f64) as u64;
        let start = self.rows.saturating_sub(window);
        let at = self.arrivals.partition_point(|&(_, before)| before < start);
        let &(since, before) = self.arrivals.get(at)?;
        Some((self.rows - before) as f64 / millis(now.since(since)).max(1e-6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default() + Span::from_millis(millis)
    }

    #[test]
    fn counts_rows_not_calls() {
        let mut rate = Rate::default();
        for call in 0..500 {
            rate.arrived(at(call), 3);
        }
        assert!((rate.per_milli(at(500), 10.0) - 3.0).abs() < 0.1);
    }

    #[test]
    fn follows_a_jump_within_a_window() {
        let mut rate = Rate::default();
        for call in 0..200 {
            rate.arrived(at(call * 10), 1);
        }
        for call in 0..128 {
            rate.arrived(at(2000 + call), 1);
        }
        assert!((rate.per_milli(at(2128), 10.0) - 1.0).abs() < 0.05);
    }

    #[test]
    fn silence_lowers_it() {
        let mut rate = Rate::default();
        for call in 0..200 {
            rate.arrived(at(call), 1);
        }
        assert!(rate.per_milli(at(10_200), 10.0) < 0.05);
    }

    #[test]
    fn says_nothing_of_too_little() {
        let mut rate = Rate::default();
        rate.arrived(at(0), 7);
        assert_eq!(rate.per_milli(at(1), 10.0), 0.0);
    }
}
