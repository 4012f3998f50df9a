//! The rules of the well-known batchers.

use batchwise::lane::{Instant, Span};

use super::central::{Choice, Rule, Standing};

/// Triton's rule: a free instance takes what waits once the oldest call is so old, or once a full
/// batch waits.
#[derive(Clone, Copy, Debug)]
pub struct FixedDelay {
    /// How long the oldest call may wait for company; zero is greedy late binding.
    pub delay: Span,
    /// The most rows of a batch.
    pub largest: usize,
}

impl FixedDelay {
    /// Takes whatever waits the moment an instance is free.
    #[must_use]
    pub fn greedy(largest: usize) -> Self {
        Self { delay: Span::ZERO, largest }
    }

    /// One row a batch.
    #[must_use]
    pub fn no_batching() -> Self {
        Self::greedy(1)
    }
}

impl Rule for FixedDelay {
    fn decide(&mut self, standing: &Standing<'_>) -> Choice {
        due(standing, standing.oldest + self.delay, self.largest)
    }
}

/// The rule of the KServe agent, TorchServe and MOSEC: a loop per instance that is blocked while
/// its batch runs, and whose timer starts with the first call that it takes after that.
#[derive(Clone, Copy, Debug)]
pub struct Agent {
    /// How long the timer runs.
    pub delay: Span,
    /// The most rows of a batch.
    pub largest: usize,
}

impl Rule for Agent {
    fn decide(&mut self, standing: &Standing<'_>) -> Choice {
        let taken = standing.oldest.max(standing.last_done);
        due(standing, taken + self.delay, self.largest)
    }
}

/// Clipper's rule (Crankshaw et al., NSDI 2017): at once, under a cap that grows by one with each
/// full batch that keeps the objective and shrinks to nine tenths with one that does not.
#[derive(Clone, Copy, Debug)]
pub struct Additive {
    objective: Span,
    largest: usize,
    cap: f64,
}

impl Additive {
    /// A cap that starts at one row.
    #[must_use]
    pub fn new(objective: Span, largest: usize) -> Self {
        Self { objective, largest, cap: 1.0 }
    }
}

impl Rule for Additive {
    fn decide(&mut self, standing: &Standing<'_>) -> Choice {
        Choice::Send(standing.waiting.min(self.cap as usize))
    }

    fn served(&mut self, rows: usize, took: Span) {
        if took > self.objective {
            self.cap = (self.cap * 0.9).max(1.0);
        } else if rows >= self.cap as usize {
            self.cap = (self.cap + 1.0).min(self.largest as f64);
        }
    }
}

fn due(standing: &Standing<'_>, due: Instant, largest: usize) -> Choice {
    if standing.waiting >= largest || due <= standing.now {
        Choice::Send(standing.waiting.min(largest))
    } else {
        Choice::Hold(due)
    }
}
