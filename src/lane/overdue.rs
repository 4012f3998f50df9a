//! Batches that take far longer than they should: their calls go to another instance.
//!
//! A process that was stopped, a worker that hangs and a machine in trouble have one thing in common:
//! a batch does not come back when it should. What it should take is known (the policy has learned
//! it), so nobody need wait for a time-out. Once a batch is overdue and another instance could serve
//! its calls, they are called back. Its instance keeps the batch and gets nothing more meanwhile: the
//! batch that it does not answer is the probe. Should it answer after all, it is back in service, and
//! the policy has learned how slow it was; else the batch is given up and the breaker takes over.
//!
//! What is far is learned, too: where one batch in a hundred takes five times as long as it should,
//! that is how this backend is, and no sign of trouble.

use super::event::{Effect, Notice, SlotId};
use super::machine::Lane;
use super::ticket::{Member, Payload, ShapeKey, Track};
use super::{InstanceId, Instant, Span};

/// A batch that takes less than so many times what it should is not overdue.
const LEAST_RATIO: f64 = 3.0;
/// Nor is one that takes less than so many times what all but the slowest take.
const BEYOND_SLOWEST: f64 = 1.5;
/// The share of batches that are the slowest.
const SLOWEST: f64 = 0.005;
/// The share of batches that take longer than is usual.
const UNUSUAL: f64 = 0.05;
/// How far one batch moves what is known of the slowest.
const STEP: f64 = 0.2;
/// Nothing is overdue by less: the wire and the scheduler take their time as well.
const SLACK: Span = Span::from_millis(5);
/// A batch that was called back is given up after so many times what it should take, and not before
/// this has passed.
const HOPELESS_RATIO: u64 = 10;
const HOPELESS: Span = Span::from_secs(1);

/// How much longer than expected batches take, all but a share of them: a quantile, by stochastic
/// approximation (Robbins and Monro 1951, with steps in proportion to the estimate).
#[derive(Clone, Copy, Debug)]
pub(super) struct Lateness {
    /// Of batches that take longer still.
    share: f64,
    ratio: f64,
}

impl Lateness {
    /// All but the very slowest.
    pub(super) fn of_slowest() -> Self {
        Self { share: SLOWEST, ratio: 1.0 }
    }

    /// Nineteen of twenty.
    pub(super) fn of_usual() -> Self {
        Self { share: UNUSUAL, ratio: 1.0 }
    }

    /// A batch took so long that should have taken `expected`.
    pub(super) fn observe(&mut self, expected: Span, took: Span) {
        let ratio = took.as_nanos() as f64 / expected.as_nanos().max(1) as f64;
        let step = if ratio > self.ratio { 1.0 - self.share } else { -self.share };
        self.ratio = (self.ratio * (1.0 + STEP * step)).max(1.0);
    }

    /// How long a batch takes at most that should take `expected`, but for the share of those that
    /// are slower.
    pub(super) fn of(&self, expected: Span) -> Span {
        Span::from_nanos((expected.as_nanos() as f64 * self.ratio) as u64)
    }

    /// When a batch that should take `expected` is overdue.
    pub(super) fn bound(&self, expected: Span) -> Span {
        let ratio = LEAST_RATIO.max(BEYOND_SLOWEST * self.ratio);
        Span::from_nanos((expected.as_nanos() as f64 * ratio) as u64).plus(SLACK)
    }
}

/// How a batch stands that may be called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recall {
    /// It has not been.
    No,
    /// Its calls were asked for.
    Asked,
    /// Its calls have gone elsewhere.
    Gone,
}

impl<P: Payload> Lane<P> {
    /// How long a batch that is about to be sent should be on its way; `None` while that is not known.
    pub(super) fn should_take(
        &self,
        now: Instant,
        instance: InstanceId,
        key: Option<&ShapeKey>,
        rows: u32,
    ) -> Option<Span> {
        let expected = self.policy.expected(key, instance, rows)?;
        let behind = match self.fleet.batches(instance) {
            0 => Span::ZERO,
            // Calls that ride alone are sent many at a time, and may be served one after the other.
            ahead if !self.batchable => expected.times(ahead.into()),
            // It shares the instance, and may have to wait for its turn.
            _ => self.policy.first_back(now, instance).map_or(expected, |(at, _)| at.since(now)),
        };
        Some(expected.plus(behind))
    }

    /// When a batch that is about to be sent will be overdue; `None` when it cannot be told, or when
    /// its calls must not be sent twice.
    pub(super) fn overdue_at(
        &self,
        now: Instant,
        members: &[Member<P>],
        should_take: Option<Span>,
    ) -> Option<Instant> {
        let once = members.iter().all(|member| !member.recalled);
        let batch = members.iter().all(|member| member.ticket.track == Track::Batch);
        let bound = self.lateness.bound(should_take?);
        (self.plan.attempts > 1 && once && batch).then(|| now + bound)
    }

    /// Calls back what is overdue, and gives up what was called back long ago.
    pub(super) fn recall_overdue(&mut self, now: Instant) {
        let due: Vec<SlotId> =
            self.overdue.iter().take_while(|(at, _)| *at <= now).map(|&(_, slot)| slot).collect();
        for slot in due {
            let Some(flight) = self.flights.get_mut(&slot) else { continue };
            match flight.recall {
                Recall::No if self.fleet.has_other(now, flight.instance) && self.budget.take() => {
                    flight.recall = Recall::Asked;
                    let waited = now.since(flight.sent);
                    let expected = flight.expected.unwrap_or(waited);
                    let hopeless = flight.sent + expected.times(HOPELESS_RATIO).max(HOPELESS);
                    let (instance, rows) = (flight.instance, flight.rows);
                    let before = flight.overdue_at.replace(hopeless.max(now + waited));
                    self.overdue.extend(flight.overdue_at.map(|at| (at, slot)));
                    self.overdue.remove(&(before.unwrap_or_default(), slot));
                    self.fleet.stalls(instance);
                    self.effects.push_back(Effect::Recall(slot));
                    self.notice(Notice::Recalled(instance, rows));
                }
                // Looked at again as soon as another instance is usable.
                Recall::No | Recall::Asked => {}
                Recall::Gone => {
                    self.overdue.remove(&(flight.overdue_at.unwrap_or_default(), slot));
                    self.effects.push_back(Effect::Abort(slot));
                }
            }
        }
    }

    /// When the next batch is overdue.
    pub(super) fn next_overdue(&self, now: Instant) -> Option<Instant> {
        let later = self.overdue.range((now + Span::from_nanos(1), SlotId(0))..);
        later.map(|&(at, _)| at).next()
    }

    /// The calls of a batch that was called back stand where they stood, and avoid its instance.
    pub(super) fn recalled(&mut self, now: Instant, slot: SlotId, members: Vec<Member<P>>) {
        let Some(flight) = self.flights.get_mut(&slot) else { return };
        flight.recall = Recall::Gone;
        flight.suspect = false;
        flight.members.clear();
        let (instance, case) = (flight.instance, flight.case.take());
        let members = members.into_iter().filter(|member| !member.payload.is_abandoned());
        let members: Vec<_> = members
            .map(|member| {
                // This one gets nothing before it answers; who failed the call might.
                let avoid = member.avoid.or(Some(instance));
                Member { recalled: true, avoid, ..member }
            })
            .collect();
        match case {
            // A part of a batch that failed stays one.
            Some(case) if !members.is_empty() => self.trials.again(case, members),
            Some(case) => {
                let verdict = self.trials.given_up(case, false);
                self.judge(now, verdict);
            }
            None => members.into_iter().for_each(|member| self.enqueue(member)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Span = Span::from_millis(10);

    #[test]
    fn what_takes_three_times_as_long_as_it_should_is_overdue() {
        let mut lateness = Lateness::of_slowest();
        for took in [9, 10, 11, 12, 10].into_iter().cycle().take(1000) {
            lateness.observe(EXPECTED, Span::from_millis(took));
        }
        assert_eq!(lateness.bound(EXPECTED), Span::from_millis(35));
    }

    #[test]
    fn where_one_in_a_hundred_takes_five_times_as_long_that_is_not_overdue() {
        let mut lateness = Lateness::of_slowest();
        for i in 0..5000 {
            lateness.observe(EXPECTED, Span::from_millis(if i % 100 == 0 { 50 } else { 10 }));
        }
        let bound = lateness.bound(EXPECTED);
        assert!(bound > Span::from_millis(60) && bound < Span::from_millis(120), "{bound:?}");
    }

    #[test]
    fn one_freeze_does_not_change_what_is_overdue() {
        let mut lateness = Lateness::of_slowest();
        lateness.observe(EXPECTED, Span::from_secs(5));
        assert_eq!(lateness.bound(EXPECTED), Span::from_millis(35));
    }
}
