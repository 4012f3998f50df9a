//! Hedging: a batch that takes longer than most is sent to a second instance as well; the first
//! answer counts, and the other request is given up (Dean and Barroso, "The Tail at Scale", 2013).
//!
//! Only where somebody asked for it, because the work may be done twice; and only with what would
//! else be idle: nobody waits, another instance has a free slot, and the retry budget has a token.

use super::breaker::Admission;
use super::event::{Effect, Notice, SlotId};
use super::machine::{Flight, Lane};
use super::overdue::Recall;
use super::policy::Departure;
use super::ticket::{Member, Payload, ShapeKey, Track};
use super::{InstanceId, Instant, Span};

/// Not even the quickest batches are hedged before this: so long may the wire take.
const LEAST_DELAY: Span = Span::from_millis(1);
/// Batches of an instance, one after the other, that another one may answer first. The next one is
/// not hedged: only what it makes of that one tells whether the instance is slow or gone.
const MOST_OVERTAKEN: u32 = 3;

/// When a batch is sent to a second instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeDelay {
    /// Once it takes longer than 95 % of batches do, measured against what each should take.
    Learned,
    /// After so long.
    Fixed(Span),
}

impl<P: Payload> Lane<P> {
    /// When a batch that is about to be sent should go to a second instance, too.
    pub(super) fn hedge_at(
        &self,
        now: Instant,
        flight: &Flight,
        members: &[Member<P>],
        should_take: Option<Span>,
    ) -> Option<Instant> {
        let delay = match self.plan.hedge? {
            HedgeDelay::Learned => self.usual.of(should_take?).max(LEAST_DELAY),
            HedgeDelay::Fixed(delay) => delay,
        };
        let spotless = members.iter().all(|member| member.avoid.is_none());
        let ordinary = spotless && flight.case.is_none() && !flight.probe;
        let trusted = self.fleet.overtaken(flight.instance) < MOST_OVERTAKEN;
        (self.plan.attempts > 1 && ordinary && trusted && flight.track == Track::Batch)
            .then(|| now + delay)
    }

    /// Sends what takes longer than most to a second instance, where one has nothing better to do.
    pub(super) fn hedge_slow(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.hedges.first()
            && at <= now
            && self.batches.is_empty()
            && self.trials.is_empty()
        {
            let hedged = self.flights.get(&slot).filter(|flight| flight.recall == Recall::No);
            let Some((first, rows)) = hedged.map(|flight| (flight.instance, flight.rows)) else {
                self.hedges.pop_first();
                continue;
            };
            let chosen = self.fleet.choose(now, Track::Batch, Some(first));
            let fits = |id, ramp: u32| id != first && rows <= ramp.min(self.fleet.cap_of(now, id));
            let second = match chosen {
                Some((id, Admission::Batches(ramp))) if fits(id, ramp) => id,
                // Looked at again whenever something changes.
                _ => return,
            };
            if !self.budget.take() {
                return;
            }
            self.hedges.pop_first();
            self.send_second(now, slot, second);
        }
    }

    /// When the next batch is to be sent to a second instance.
    pub(super) fn next_hedge(&self, now: Instant) -> Option<Instant> {
        let later = self.hedges.range((now + Span::from_nanos(1), SlotId(0))..);
        later.map(|&(at, _)| at).next()
    }

    fn send_second(&mut self, now: Instant, slot: SlotId, instance: InstanceId) {
        let second = SlotId(self.next_slot);
        let telling = self.fleet.batches(instance) == 0;
        let Some(first) = self.flights.get_mut(&slot) else { return };
        self.next_slot += 1;
        first.hedge_at = None;
        let (rows, key) = (first.rows, first.key.clone());
        let expected = self.policy.expected(key.as_ref(), instance, rows);
        // Both are overdue when the second one is.
        if let (Some(before), Some(expected)) = (first.overdue_at, expected) {
            let both = before.max(now + self.lateness.bound(expected));
            first.overdue_at = Some(both);
            self.overdue.remove(&(before, slot));
            self.overdue.insert((both, slot));
        }
        let probe = self.fleet.sent(now, instance, Track::Batch, rows);
        let departure = Departure { slot: second, instance, key: key.as_ref(), rows, telling };
        self.policy.sent(now, &departure);
        let expected = expected.filter(|_| telling);
        let flight = Flight { probe, expected, ..Flight::second(now, instance, rows, key) };
        self.flights.insert(second, flight);
        self.effects.push_back(Effect::Hedge { slot, second, instance });
        self.notice(Notice::Hedged(instance, rows));
    }
}

impl Flight {
    fn second(now: Instant, instance: InstanceId, rows: u32, key: Option<ShapeKey>) -> Self {
        Self {
            instance,
            track: Track::Batch,
            rows,
            key,
            streams: 0,
            begun: false,
            sent: now,
            probe: false,
            case: None,
            overlap: None,
            expected: None,
            overdue_at: None,
            recall: Recall::No,
            hedge_at: None,
            suspect: false,
            members: Vec::new(),
            left: 0,
        }
    }
}
