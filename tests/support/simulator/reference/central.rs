//! One queue in front of all instances, first come first served, one batch at a time on each.

use std::collections::VecDeque;

use batchwise::lane::{Instant, Span};

use super::super::system::{Dispatch, Refusal, System};

/// A batch on its way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// When it was sent.
    pub sent: Instant,
    /// Its rows.
    pub rows: usize,
}

/// What a rule decides upon: an instance is free and calls wait.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The time.
    pub now: Instant,
    /// Calls that wait, at least one.
    pub waiting: usize,
    /// When the first of them came.
    pub oldest: Instant,
    /// When the last batch came back.
    pub last_done: Instant,
    /// Free instances, at least one.
    pub free: usize,
    /// What runs on each instance.
    pub flights: &'a [Option<Flight>],
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A batch of the first so many calls, at least one.
    Send(usize),
    /// Nothing before this time, unless something happens.
    Hold(Instant),
    /// Nothing until something happens.
    Sleep,
}

/// When a batch goes and how large it is.
pub trait Rule {
    /// Send now, or hold. Asked whenever an instance is free and calls wait.
    fn decide(&mut self, standing: &Standing<'_>) -> Choice;

    /// A batch was answered this long after it was sent.
    fn served(&mut self, _rows: usize, _took: Span) {}
}

/// One queue under one rule.
#[derive(Clone, Debug)]
pub struct Central<R> {
    rule: R,
    queue: VecDeque<(Instant, usize)>,
    flights: Vec<Option<Flight>>,
    /// Free instances; the one that has been free for longest goes first.
    free: VecDeque<usize>,
    last_done: Instant,
    wake_at: Option<Instant>,
    sent: u64,
    failed: Vec<usize>,
    /// Lists to use again, so that a batch costs no allocation.
    spare: Vec<Vec<usize>>,
}

impl<R: Rule> Central<R> {
    /// So many free instances.
    pub fn new(rule: R, instances: usize) -> Self {
        Self {
            rule,
            queue: VecDeque::new(),
            flights: vec![None; instances],
            free: (0..instances).collect(),
            last_done: Instant::default(),
            wake_at: None,
            sent: 0,
            failed: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Calls that wait or are on their way.
    pub(super) fn under_way(&self) -> usize {
        let flying: usize = self.flights.iter().flatten().map(|flight| flight.rows).sum();
        self.queue.len() + flying
    }
}

impl<R: Rule> System for Central<R> {
    fn arrive(&mut self, now: Instant, call: usize) {
        self.queue.push_back((now, call));
    }

    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool) {
        if let Some(flight) = self.flights[batch.instance].take() {
            self.rule.served(flight.rows, now.since(flight.sent));
        }
        self.free.push_back(batch.instance);
        self.last_done = now;
        let mut calls = batch.calls;
        if !succeeded {
            self.failed.extend_from_slice(&calls);
        }
        calls.clear();
        self.spare.push(calls);
    }

    fn next(&mut self, now: Instant) -> Option<Dispatch> {
        self.wake_at = None;
        let (&instance, &(oldest, _)) = (self.free.front()?, self.queue.front()?);
        let rows = match self.rule.decide(&Standing {
            now,
            waiting: self.queue.len(),
            oldest,
            last_done: self.last_done,
            free: self.free.len(),
            flights: &self.flights,
        }) {
            Choice::Send(rows) => rows.min(self.queue.len()),
            Choice::Hold(until) => {
                self.wake_at = Some(until);
                return None;
            }
            Choice::Sleep => return None,
        };
        self.free.pop_front();
        self.flights[instance] = Some(Flight { sent: now, rows });
        let mut calls = self.spare.pop().unwrap_or_default();
        calls.extend(self.queue.drain(..rows).map(|(_, call)| call));
        self.sent += 1;
        Some(Dispatch { token: self.sent, instance, calls })
    }

    fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    fn refused(&mut self) -> Option<Refusal> {
        self.failed.pop().map(|call| Refusal { call, failed: true })
    }
}
