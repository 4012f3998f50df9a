//! Who gets in when the queue is full.
//!
//! A call that comes takes the place of one that is less urgent, or of one of its own priority whose
//! tenant has more waiting. But each level keeps room for one batch: the least urgent one gets a
//! turn now and then, and a turn is worth nothing to who is never let in.

use super::Instant;
use super::event::{RefuseReason, TurnedAway};
use super::fleet::Prospect;
use super::machine::Lane;
use super::ticket::{Member, Payload, Ticket};

/// Of the queue, the share that a level which may not be shed can have at most.
const LARGEST_RESERVE: u64 = 10;

impl<P: Payload> Lane<P> {
    /// Sheds calls until there is room for one that comes; `false`: nobody makes room for it.
    pub(super) fn make_room(&mut self, now: Instant, coming: &Ticket) -> bool {
        while !self.has_room(coming) {
            let reserve = self.reserve(now);
            let victim = self
                .last_beyond(reserve, coming.priority)
                .filter(|last| self.gives_way(&last.ticket, coming, reserve))
                .map(|victim| (victim.ticket.track, victim.ticket.place()));
            let Some(victim) = victim.and_then(|(track, place)| self.take_waiting(track, place))
            else {
                return false;
            };
            let more_urgent = victim.ticket.priority < coming.priority;
            let reason = if more_urgent { RefuseReason::QueueFull } else { RefuseReason::Shed };
            self.refuse(victim, reason);
        }
        true
    }

    /// The first call always fits: one that is larger than the whole bound would else never be
    /// served, and its size was bounded at the door.
    fn has_room(&self, ticket: &Ticket) -> bool {
        self.waiting.rows == 0
            || self.waiting.rows + u64::from(ticket.rows) <= self.plan.max_queue_rows
                && self.waiting.bytes + ticket.bytes <= self.plan.max_queue_bytes
    }

    /// Calls that each level may have waiting whatever else wants their room: a batch.
    fn reserve(&self, now: Instant) -> u64 {
        u64::from(self.fleet.cap(now)).min(self.plan.max_queue_rows / LARGEST_RESERVE)
    }

    /// The least urgent call that no reserve protects; the level of the call that comes has to make
    /// do with what it has.
    fn last_beyond(&self, reserve: u64, coming: u8) -> Option<&Member<P>> {
        let queue = if self.batches.is_empty() { &self.streams } else { &self.batches };
        queue.last(|member| {
            let level = member.ticket.priority;
            level <= 1 || level == coming || self.waiting.at_level(level) > reserve
        })
    }

    fn gives_way(&self, waiting: &Ticket, coming: &Ticket, reserve: u64) -> bool {
        let rows = u64::from(coming.rows);
        waiting.priority > coming.priority
            || waiting.priority < coming.priority
                && self.waiting.at_level(coming.priority) < reserve
            || waiting.priority == coming.priority
                && waiting.tenant != coming.tenant
                && self.waiting.of(waiting.tenant) > self.waiting.of(coming.tenant) + rows
    }

    /// The calls that [`Event::Arrive`](super::Event::Arrive) would only refuse at `now`.
    pub fn turns_away(&self, now: Instant) -> Option<TurnedAway> {
        let everybody = |reason| {
            Some(TurnedAway { from_priority: 1, to_priority: u8::MAX, tenant: None, reason })
        };
        if self.draining {
            return everybody(RefuseReason::Draining);
        }
        if let Prospect::None(retry_after) = self.fleet.prospect(now) {
            return everybody(RefuseReason::NoInstance(retry_after));
        }
        let full = self.waiting.rows > 0
            && (self.waiting.rows >= self.plan.max_queue_rows
                || self.waiting.bytes >= self.plan.max_queue_bytes);
        if !full {
            return None;
        }
        let reserve = self.reserve(now);
        let last = &self.last_beyond(reserve, 1)?.ticket;
        let from_priority = last.priority;
        // Further levels may still have room of their own.
        let has_its_share = |&level: &u8| self.waiting.at_level(level) >= reserve;
        let to_priority = (from_priority..=u8::MAX).take_while(has_its_share).last()?;
        // Another tenant that has less may take its place.
        let tenant = (self.waiting.of(last.tenant) > 1).then_some(last.tenant);
        let reason = RefuseReason::QueueFull;
        Some(TurnedAway { from_priority, to_priority, tenant, reason })
    }
}
