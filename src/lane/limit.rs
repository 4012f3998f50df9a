//! How many rows a batch of one instance may have, where somebody has said so and where nobody has.
//!
//! A limit that the configuration or the instance states is taken at its word. Otherwise it is
//! learned: no batch is more than twice the largest that has worked, so that no unknown memory
//! cliff is met at full speed; a size that was refused though each of its parts was served bounds
//! it from above, by bisection; and what was refused is tried again later, ever more rarely.

use super::{Instant, Span};

/// The first size tried where nothing is known.
const START: u32 = 4;
/// No batch has more rows than this unless somebody says so.
pub const LARGEST_BATCH: u32 = 1024;
const FIRST_MEMORY: Span = Span::from_secs(60);
const LONGEST_MEMORY: Span = Span::from_secs(3600);

/// How many rows one batch may have.
#[derive(Clone, Debug)]
pub(super) struct SizeLimit {
    told: Option<u32>,
    worked: u32,
    refused: Option<Refused>,
    memory: Span,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    rows: u32,
    until: Instant,
}

impl SizeLimit {
    pub(super) fn new(told: Option<u32>) -> Self {
        Self { told, worked: 0, refused: None, memory: FIRST_MEMORY }
    }

    /// Knows what another one has seen of the same instance.
    pub(super) fn succeed(&mut self, before: &Self) {
        *self = Self { told: self.told, ..before.clone() };
    }

    /// Somebody has said how many, or has taken that back.
    pub(super) fn tell(&mut self, told: Option<u32>) {
        self.told = told.map(|rows| rows.max(1));
    }

    /// Whether somebody has said how many, and no refusal has said otherwise.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some() && self.refused.is_none()
    }

    /// The largest batch that has worked.
    pub(super) fn worked(&self) -> u32 {
        self.worked
    }

    /// The most rows that the next batch may have; at least 1.
    pub(super) fn cap(&self, now: Instant) -> u32 {
        let open = match self.told {
            Some(told) => told,
            None => self.worked.saturating_mul(2).clamp(START, LARGEST_BATCH),
        };
        let learned = match self.refused {
            Some(refused) if now < refused.until => {
                let lo = self.worked.min(refused.rows.saturating_sub(1));
                lo + (refused.rows - lo) / 2
            }
            _ => u32::MAX,
        };
        open.min(learned).max(1)
    }

    pub(super) fn served(&mut self, rows: u32) {
        self.worked = self.worked.max(rows);
        if self.refused.is_some_and(|refused| refused.rows <= rows) {
            self.refused = None;
            self.memory = FIRST_MEMORY;
        }
    }

    /// A batch of `rows` failed, but every part of it was served.
    pub(super) fn refused(&mut self, now: Instant, rows: u32) {
        if rows <= 1 {
            return;
        }
        self.worked = self.worked.min(rows - 1);
        let seen_before = self.refused.is_some_and(|refused| refused.until <= now);
        if seen_before {
            self.memory = self.memory.times(2).min(LONGEST_MEMORY);
        }
        self.refused = Some(Refused { rows, until: now + self.memory });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves or refuses batches of the size that the limit asks for until it settles.
    fn settle(limit: &mut SizeLimit, now: Instant, real: u32) -> u32 {
        for _ in 0..32 {
            let rows = limit.cap(now);
            if rows <= real {
                limit.served(rows);
            } else {
                limit.refused(now, rows);
            }
        }
        limit.cap(now)
    }

    #[test]
    fn finds_a_limit_that_nobody_told() {
        let now = Instant::default();
        for real in [1, 3, 4, 5, 32, 100, 1000] {
            let mut limit = SizeLimit::new(None);
            let found = settle(&mut limit, now, real);
            assert!(found <= real.max(1) && found + 1 >= real, "{found} for {real}");
        }
    }

    #[test]
    fn takes_a_told_limit_at_its_word_and_learns_below_it() {
        let now = Instant::default();
        let mut limit = SizeLimit::new(Some(64));
        assert_eq!(limit.cap(now), 64);
        limit.refused(now, 64);
        assert_eq!(settle(&mut limit, now, 32), 32);
    }

    #[test]
    fn tries_a_refused_size_again_ever_more_rarely() {
        let now = Instant::default();
        let mut limit = SizeLimit::new(Some(8));
        limit.refused(now, 8);
        let later = now + FIRST_MEMORY;
        assert!(limit.cap(later - Span::from_nanos(1)) < 8);
        assert_eq!(limit.cap(later), 8);
        limit.refused(later, 8);
        assert!(limit.cap(later + FIRST_MEMORY) < 8);
        assert_eq!(limit.cap(later + FIRST_MEMORY.times(2)), 8);
    }
}
