//! Controlled delay: who is refused while a queue stands.
//!
//! A queue that fills up and empties again does its work: it takes in a burst. One that stands, in
//! which for a while nobody waited less than a little, only makes everybody late. The least wait
//! over a while tells the two apart (Nichols and Jacobson, "Controlling Queue Delay", 2012). What is
//! in the queue stays: while it stands, those who come and would wait too long are refused at once,
//! when it costs nothing yet, until somebody has waited no longer than is meant.
//!
//! Only where somebody asked for it: who sends ten thousand calls at once, without a deadline, means it.

use super::machine::Lane;
use super::ticket::{Member, Payload, Ticket, Track};
use super::{Instant, Span};

/// For so long nobody may have waited less, at least.
const LEAST_INTERVAL: Span = Span::from_millis(100);
/// How many of the largest batches an instance makes in that time, at least.
const INTERVAL_BATCHES: u64 = 4;
/// How many of them a call may wait for.
const TARGET_BATCHES: u64 = 2;
/// For so many intervals a queue that stood is not given another one.
const MEMORY_INTERVALS: u64 = 16;

/// How long calls may wait while their queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlledDelay {
    /// As long as two of the largest batches take.
    Learned,
    /// So long.
    Fixed(Span),
}

/// What has been seen of each priority; index 0 is priority 1.
#[derive(Debug, Default)]
pub(super) struct Standing {
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// Since when everybody who was sent had waited too long.
    since: Option<Instant>,
    /// When somebody was last refused for it.
    refused: Option<Instant>,
}

impl Standing {
    /// One that was sent has waited too long, or not.
    fn note(&mut self, now: Instant, priority: u8, too_long: bool) {
        let level = self.level(priority);
        level.since = too_long.then(|| level.since.unwrap_or(now));
    }

    /// Whether calls of this priority, or more urgent ones, have all waited too long for so long.
    /// One that stood a moment ago stands again at the first sign of it.
    fn stands(&self, now: Instant, priority: u8, interval: Span) -> bool {
        let lately = interval.times(MEMORY_INTERVALS);
        self.levels.iter().take(usize::from(priority.max(1))).any(|level| {
            let again = level.refused.is_some_and(|refused| now.since(refused) < lately);
            level.since.is_some_and(|since| again || now.since(since) >= interval)
        })
    }

    fn level(&mut self, priority: u8) -> &mut Level {
        let index = usize::from(priority.max(1)) - 1;
        if self.levels.len() <= index {
            self.levels.resize(index + 1, Level::default());
        }
        &mut self.levels[index]
    }
}

impl<P: Payload> Lane<P> {
    /// What the calls of a batch that is sent have waited.
    pub(super) fn note_waits(&mut self, now: Instant, members: &[Member<P>]) {
        let Some(target) = self.delay_target(now) else { return };
        // A call that was tried before has waited for other reasons.
        for Member { ticket, .. } in members.iter().filter(|member| member.attempts == 0) {
            self.standing.note(now, ticket.priority, now.since(ticket.arrived) > target);
        }
    }

    /// Whether the queue stands, and a call that comes would wait longer than is meant.
    pub(super) fn waits_too_long(&mut self, now: Instant, coming: &Ticket) -> bool {
        let Some(target) = self.delay_target(now) else { return false };
        if self.waiting.at_level(coming.priority) == 0 {
            self.standing.level(coming.priority).since = None;
        }
        let interval = self.largest_takes(now).times(INTERVAL_BATCHES).max(LEAST_INTERVAL);
        if !self.standing.stands(now, coming.priority, interval) {
            return false;
        }
        let too_long = match coming.track {
            Track::Batch => self.time_for(self.waiting.rows_before(coming.place())) > target,
            // Nobody knows how long streams take; those before it will have waited too long as well.
            Track::Stream => self.waiting.at_level(coming.priority) > 0,
        };
        if too_long {
            self.standing.level(coming.priority).refused = Some(now);
        }
        too_long
    }

    /// Nothing is too long before something is known of how long batches take.
    fn delay_target(&self, now: Instant) -> Option<Span> {
        match self.plan.controlled_delay? {
            ControlledDelay::Fixed(target) => Some(target),
            ControlledDelay::Learned => {
                let target = self.largest_takes(now).times(TARGET_BATCHES);
                (target > Span::ZERO).then_some(target)
            }
        }
    }

    /// What the largest batch takes, as far as is known.
    fn largest_takes(&self, now: Instant) -> Span {
        let instances = u64::from(self.fleet.usable_slots(now).max(1));
        self.time_for(u64::from(self.fleet.cap(now))).times(instances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Span = Span::from_millis(100);

    fn at(millis: u64) -> Instant {
        Instant::default() + Span::from_millis(millis)
    }

    #[test]
    fn a_queue_stands_once_nobody_waited_less_for_a_while() {
        let mut standing = Standing::default();
        standing.note(at(0), 2, true);
        standing.note(at(99), 2, true);
        assert!(!standing.stands(at(99), 2, INTERVAL));
        assert!(standing.stands(at(100), 2, INTERVAL));
        standing.note(at(101), 2, false);
        assert!(!standing.stands(at(300), 2, INTERVAL));
    }

    #[test]
    fn one_that_stood_a_moment_ago_stands_again_at_once() {
        let mut standing = Standing::default();
        standing.level(2).refused = Some(at(0));
        standing.note(at(1000), 2, true);
        assert!(standing.stands(at(1000), 2, INTERVAL));
        assert!(!standing.stands(at(1600), 1, INTERVAL));
        standing.level(2).since = Some(at(1600));
        assert!(!standing.stands(at(1600), 2, INTERVAL), "that is long ago");
    }

    #[test]
    fn who_is_less_urgent_stands_behind_and_who_is_more_urgent_does_not() {
        let mut standing = Standing::default();
        standing.note(at(0), 2, true);
        let stands = |priority| standing.stands(at(100), priority, INTERVAL);
        assert!(!stands(1) && stands(2) && stands(3));
    }
}
