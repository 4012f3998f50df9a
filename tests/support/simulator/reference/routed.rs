//! One batcher per instance behind a load balancer that sends each call to one of them at once.

use batchwise::lane::Instant;

use super::super::random::Random;
use super::super::system::{Dispatch, Refusal, System};
use super::central::{Central, Rule};

/// Who gets a call. Load is the number of calls that wait or are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Each in turn.
    RoundRobin,
    /// The less loaded of two at random (Mitzenmacher 2001).
    TwoChoices,
    /// The least loaded; one of them at random where there are several.
    ShortestQueue,
    /// Anyone.
    Random,
}

/// Batchers with one instance each.
#[derive(Clone, Debug)]
pub struct Routed<R> {
    router: Router,
    members: Vec<Central<R>>,
    turn: usize,
    random: Random,
}

impl<R: Rule + Clone> Routed<R> {
    /// So many batchers under one rule each.
    #[must_use]
    pub fn new(router: Router, rule: R, instances: usize) -> Self {
        let members = vec![Central::new(rule, 1); instances];
        Self { router, members, turn: 0, random: Random::new(1) }
    }

    fn choose(&mut self) -> usize {
        let count = self.members.len();
        let load = |index: &usize| self.members[*index].under_way();
        match self.router {
            Router::RoundRobin => {
                self.turn = (self.turn + 1) % count;
                self.turn
            }
            Router::Random => self.random.below(count),
            Router::TwoChoices if count > 1 => {
                let one = self.random.below(count);
                let other = (one + 1 + self.random.below(count - 1)) % count;
                if load(&one) <= load(&other) { one } else { other }
            }
            Router::TwoChoices | Router::ShortestQueue => {
                let first = self.random.below(count);
                let from_first = (0..count).map(|index| (first + index) % count);
                from_first.min_by_key(load).unwrap_or(first)
            }
        }
    }
}

impl<R: Rule + Clone> System for Routed<R> {
    fn arrive(&mut self, now: Instant, call: usize) {
        let chosen = self.choose();
        self.members[chosen].arrive(now, call);
    }

    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool) {
        let index = batch.instance;
        self.members[index].done(now, Dispatch { instance: 0, ..batch }, succeeded);
    }

    fn next(&mut self, now: Instant) -> Option<Dispatch> {
        let mut members = self.members.iter_mut().enumerate();
        members.find_map(|(instance, member)| {
            let batch = member.next(now)?;
            Some(Dispatch { instance, ..batch })
        })
    }

    fn wake_at(&self) -> Option<Instant> {
        self.members.iter().filter_map(System::wake_at).min()
    }

    fn refused(&mut self) -> Option<Refusal> {
        self.members.iter_mut().find_map(System::refused)
    }
}
