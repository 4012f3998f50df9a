//! How many lines of batches a model can use at once: enough that it does not idle, few enough that
//! little of them waits before what is more urgent.
//!
//! Lines have the lowest priority of their model's queue, so live calls go before those that wait.
//! How long they wait is what tells how much room live calls leave. The window grows by doubling
//! until lines wait, then by one each time that it was answered as a whole; it shrinks by a quarter,
//! at most once in that time, and by half when the model refuses. It is TCP's old way, because it
//! needs to know nothing of what the model is.
//!
//! Answers that wait nowhere here (chat and completions go to engines that batch by themselves) say
//! nothing by waiting. For them the window climbs: doubled while nearly twice as many come out of it; then
//! a quarter more, kept if more came out of it; a fifth less, kept if no less came out of it.

use std::time::Duration;

/// The first size.
const FIRST: u32 = 4;
/// How many times as long as a batch takes a line may wait for it before the window is too large.
const MOST_WAITED: u32 = 2;
/// Waits below this say nothing.
const UNNOTICED: Duration = Duration::from_millis(2);
/// Answers whose mean means something, and is good enough to tell twice as many from no more.
const LEAST_ANSWERS: u32 = 32;
const FEW_ANSWERS: u32 = 8;
/// Of the rate, what twice as many must bring to be worth another doubling.
const DOUBLED: f64 = 1.4;
/// The part by which the rate must change to count.
const NOTICED: f64 = 0.05;
/// Rounds without a step after one that was taken back.
const RESTS: u32 = 2;

/// How many lines a model can use at once. Time is an argument.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    most: u32,
    is_starting: bool,
    /// Answers until it may shrink again.
    settled_in: u32,
    climb: Climb,
}

impl Window {
    /// A window that grows to at most `most`.
    pub(super) fn new(most: u32) -> Self {
        let most = most.max(1);
        let size = f64::from(FIRST.min(most));
        Self { size, most, is_starting: true, settled_in: 0, climb: Climb::default() }
    }

    /// Lines that may wait or run now; at least 1.
    pub(super) fn size(&self) -> u32 {
        // Between 1 and `most`.
        self.size as u32
    }

    /// A line waited for so long and was then answered within `took`; `shared` when the model's
    /// batches are put together here, where waiting tells.
    pub(super) fn answered(&mut self, waited: Duration, took: Duration, shared: bool) {
        self.settled_in = self.settled_in.saturating_sub(1);
        if waited > (took * MOST_WAITED).max(UNNOTICED) {
            self.shrink(0.75);
        } else if !shared {
            if let Some(size) = self.climb.answered(waited + took, self.size()) {
                self.set(f64::from(size));
            }
        } else if self.is_starting {
            self.set(self.size + 1.0);
        } else {
            self.set(self.size + 1.0 / self.size);
        }
    }

    /// The model refused a line: it has more to do than it can.
    pub(super) fn refused(&mut self) {
        self.settled_in = self.settled_in.saturating_sub(1);
        self.shrink(0.5);
    }

    fn shrink(&mut self, factor: f64) {
        self.is_starting = false;
        if self.settled_in == 0 {
            self.settled_in = self.size();
            self.climb = Climb { doubles: false, ..Climb::default() };
            self.set(self.size * factor);
        }
    }

    fn set(&mut self, size: f64) {
        self.size = size.clamp(1.0, f64::from(self.most));
    }
}

/// Looks for the size from which on more at once gives no more answers in the same time: goes up
/// while that gains, then down while that loses nothing, and so on.
#[derive(Debug)]
struct Climb {
    /// Until that does not pay for the first time.
    doubles: bool,
    /// Answers since the size last changed.
    answers: u32,
    taken: Duration,
    goes_up: bool,
    /// Answers in a unit of time before the last step, and the size then.
    before: Option<(f64, u32)>,
    /// Rounds until the next step.
    rests: u32,
}

impl Default for Climb {
    fn default() -> Self {
        Self {
            doubles: true,
            answers: 0,
            taken: Duration::ZERO,
            goes_up: false,
            before: None,
            rests: 0,
        }
    }
}

impl Climb {
    /// Another size, when it is time for one. A round is twice as many answers as there are lines at
    /// once; its first half was under way when the size changed, and does not count.
    fn answered(&mut self, took: Duration, size: u32) -> Option<u32> {
        let settled = size.max(if self.doubles { FEW_ANSWERS } else { LEAST_ANSWERS });
        self.answers += 1;
        if self.answers > settled {
            self.taken += took;
        }
        if self.answers < 2 * settled {
            return None;
        }
        // Little's law: what comes out is what is inside by how long it stays.
        let mean = self.taken.as_secs_f64() / f64::from(settled);
        let rate = f64::from(size) / mean.max(f64::MIN_POSITIVE);
        (self.answers, self.taken) = (0, Duration::ZERO);
        match self.before.take().filter(|(_, before)| *before != size) {
            Some((before, _)) if rate >= before * self.least_kept() => {}
            Some((_, before)) => {
                self.doubles = false;
                self.rests = RESTS;
                return Some(before);
            }
            None if self.rests > 0 => {
                self.rests -= 1;
                return None;
            }
            None => self.goes_up = !self.goes_up,
        }
        self.before = Some((rate, size));
        Some(match (self.goes_up, self.doubles) {
            (true, true) => size.saturating_mul(2),
            (true, false) => size + size.div_ceil(4),
            (false, _) => size - size.div_ceil(5),
        })
    }

    /// What must be left of the rate for a step to be kept.
    fn least_kept(&self) -> f64 {
        match (self.goes_up, self.doubles) {
            (true, true) => DOUBLED,
            (true, false) => 1.0 + NOTICED,
            (false, _) => 1.0 - NOTICED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A model that answers `at_once` lines in 10 ms; what is more waits for its turn.
    fn settle(window: &mut Window, at_once: u32, answers: u32) {
        for _ in 0..answers {
            let waiting = window.size().saturating_sub(at_once);
            window.answered(10 * MS * waiting / at_once, 10 * MS, true);
        }
    }

    #[test]
    fn a_window_finds_what_a_model_can_use_and_follows_it() {
        let mut window = Window::new(1000);
        settle(&mut window, 32, 5000);
        assert!((33..=130).contains(&window.size()), "{}", window.size());
        settle(&mut window, 2, 5000);
        assert!((2..=9).contains(&window.size()), "{}", window.size());
        settle(&mut window, 32, 20_000);
        assert!((33..=130).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut window = Window::new(20);
        settle(&mut window, 10_000, 1000);
        assert_eq!(window.size(), 20);
        for _ in 0..1000 {
            window.refused();
        }
        assert_eq!(window.size(), 1);
        assert_eq!(Window::new(0).size(), 1);
    }

    #[test]
    fn an_engine_with_many_places_is_filled_before_long() {
        let (mut window, mut answers) = (Window::new(10_000), 0);
        while window.size() < 64 {
            window.answered(Duration::ZERO, 10 * MS, false);
            answers += 1;
        }
        // Twice as many as there are at once, for each of its sizes on the way.
        assert!(answers <= 2 * (8 + 8 + 16 + 32), "{answers}");
    }

    #[test]
    fn an_engine_that_gains_nothing_from_more_gets_no_more() {
        for knee in [1, 16, 100] {
            let mut window = Window::new(10_000);
            let mut sizes = Vec::new();
            for answer in 0..100_000_u32 {
                // So many at once cost nothing, beyond that each costs its share; some are long.
                let length = if answer.is_multiple_of(7) { 50 } else { 10 };
                let took = length * MS * window.size().max(knee) / knee;
                window.answered(Duration::ZERO, took, false);
                sizes.push(window.size());
            }
            let settled = &sizes[50_000..];
            let mean = settled.iter().sum::<u32>() / 50_000;
            assert!((knee / 2..=2 * knee + 8).contains(&mean), "{knee}: {mean}");
        }
    }
}
