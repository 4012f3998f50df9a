//! The balance rule with full knowledge: a yardstick, since nobody knows the rate and the curve.

use batchwise::lane::Instant;

use super::super::service::Curve;
use super::super::{ms, span_from_ms};
use super::central::{Choice, Rule, Standing};

/// Sends when at least as many calls wait as the next batch would get, so that instances stay out
/// of step.
///
/// With k free instances and r_1 <= r_2 <= ... what the running batches still need, the next start
/// would come after max_j r_j / (k - 1 + j) in the evenest plan that these allow (the taut string
/// over the points (k - 1 + j, r_j)); the rule is to go when what waits plus `offset` is at least
/// `factor` times what arrives until then. A batch that one started now would overtake does not
/// count, for it does not set the next start.
#[derive(Clone, Debug)]
pub struct Threshold {
    /// The rate, calls a millisecond.
    pub rate: f64,
    /// The service time.
    pub curve: Curve,
    /// Scales what is waited for: 0 is greedy, 1 the balance of the derivation.
    pub factor: f64,
    /// Calls that count as waiting though they do not; a half is nearest to the optimum.
    pub offset: f64,
    /// The most rows of a batch.
    pub cap: usize,
    /// Rows to send by the number of calls that wait, as [`optimum`](super::super::optimum)
    /// finds them: index 0 for none; 0 rows is to hold. Empty for all that wait.
    pub sizes: Vec<usize>,
}

impl Threshold {
    /// The rule as derived, taking all that waits.
    #[must_use]
    pub fn new(rate: f64, curve: Curve) -> Self {
        let cap = curve.largest();
        Self { rate, curve, factor: 1.0, offset: 0.5, cap, sizes: Vec::new() }
    }

    /// Rows to send when so many wait; `None` to hold for more.
    fn size(&self, waiting: usize) -> Option<usize> {
        let last = self.sizes.len().saturating_sub(1);
        let rows = self.sizes.get(waiting.min(last)).copied().unwrap_or(waiting);
        (rows > 0).then_some(rows.min(self.cap))
    }

    /// How long after `now` the balance has been reached if nothing else happens, milliseconds.
    fn hold_ms(&self, standing: &Standing<'_>, rows: usize) -> f64 {
        let own = self.curve.time_ms(rows);
        let rest = |index: usize| {
            let flight = standing.flights.get(index).copied().flatten()?;
            let gone = ms(standing.now.since(flight.sent));
            let rest = self.curve.time_ms(flight.rows) - gone;
            (rest > 0.0 && rest <= own).then_some(rest)
        };
        let ahead = standing.waiting as f64 + self.offset;
        let indices = 0..standing.flights.len();
        let hold = |index: usize| {
            let rest_ms = rest(index)?;
            // Its rank among the rests that count, from 0; equal ones in any order.
            let before = |other: usize| {
                rest(other).is_some_and(|rest| rest < rest_ms || rest == rest_ms && other < index)
            };
            let rank = indices.clone().filter(|&other| before(other)).count();
            let starts = (standing.free + rank) as f64;
            Some(rest_ms - ahead * starts / (self.factor * self.rate))
        };
        indices.clone().filter_map(hold).fold(0.0, f64::max)
    }

    /// Whether a batch of `rows` has nearly the most rows a millisecond that any has.
    fn is_efficient(&self, rows: usize) -> bool {
        rows as f64 / self.curve.time_ms(rows) >= 0.89 * self.curve.capacity()
    }
}

impl Rule for Threshold {
    fn decide(&mut self, standing: &Standing<'_>) -> Choice {
        let Some(rows) = self.size(standing.waiting) else { return Choice::Sleep };
        // A batch that has all it will get gains nothing by waiting.
        let full = standing.waiting >= self.cap
            || self.size(standing.waiting + 1).is_some_and(|more| more <= rows)
                && self.is_efficient(rows);
        let hold_ms = if full { 0.0 } else { self.hold_ms(standing, rows) };
        // The clock has whole nanoseconds; less than one is now.
        let until: Instant = standing.now + span_from_ms(hold_ms);
        if until > standing.now { Choice::Hold(until) } else { Choice::Send(rows) }
    }
}
