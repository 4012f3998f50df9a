//! When calls come: random processes with a given mean rate.
//!
//! A process whose rate varies is drawn by thinning (Lewis and Shedler 1979): candidates come at
//! the highest rate, and each stays with the probability that the rate of its moment has of that.

use std::f64::consts::TAU;

use batchwise::lane::Instant;

use super::random::Random;

/// The gap between the calls of a burst.
const HEEL_MS: f64 = 1e-6;

/// How arrivals are spread over time. Rates are factors of the process's rate, times milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    /// Independent callers: exponential gaps.
    Poisson,
    /// All gaps equal.
    Even,
    /// A Poisson process whose rate has two states of exponential length (a Markov-modulated
    /// process, MMPP); the mean rate is kept.
    Modulated {
        /// The high rate as a multiple of the low one.
        ratio: f64,
        /// The mean length of either state.
        state_ms: f64,
    },
    /// Poisson at twice the rate, then nothing, in turn, both of exponential length.
    OnOff {
        /// The mean length of either.
        state_ms: f64,
    },
    /// So many calls on each other's heels, a nanosecond apart; the bursts are a Poisson process.
    Bursts(usize),
    /// Poisson whose rate swings as a sine: a day, compressed.
    Wave {
        /// The amplitude as a share of the mean, 0 to 1.
        swing: f64,
        /// The length of the day.
        period_ms: f64,
    },
    /// Poisson whose rate is multiplied at one moment.
    Jump {
        /// When.
        at_ms: f64,
        /// By what.
        factor: f64,
    },
    /// Poisson whose rate goes from 0 to the full one in a straight line, and stays there.
    Ramp {
        /// How long that takes.
        over_ms: f64,
    },
}

impl Process {
    /// Rates 1.6 and 0.4 of the mean, a fifth of a second each.
    pub const MODULATED: Self = Self::Modulated { ratio: 4.0, state_ms: 200.0 };
    /// 50 ms of calls, 50 ms of silence, on average.
    pub const ON_OFF: Self = Self::OnOff { state_ms: 50.0 };
    /// 80 % up and down in 20 seconds.
    pub const WAVE: Self = Self::Wave { swing: 0.8, period_ms: 20_000.0 };
    /// Ten times as many calls from the tenth second on; the load is that before it.
    pub const JUMP: Self = Self::Jump { at_ms: 10_000.0, factor: 10.0 };
    /// From nothing to the full rate in 20 seconds.
    pub const RAMP: Self = Self::Ramp { over_ms: 20_000.0 };

    /// The processes that a policy is held against, by name.
    pub const NAMES: [&str; 9] =
        ["poisson", "even", "modulated", "on-off", "bursts-8", "bursts-32", "wave", "jump", "ramp"];

    /// One of [`Self::NAMES`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "poisson" => Self::Poisson,
            "even" => Self::Even,
            "modulated" => Self::MODULATED,
            "on-off" => Self::ON_OFF,
            "bursts-8" => Self::Bursts(8),
            "bursts-32" => Self::Bursts(32),
            "wave" => Self::WAVE,
            "jump" => Self::JUMP,
            "ramp" => Self::RAMP,
            _ => return None,
        })
    }
}

/// The arrivals of a process, without end, in order.
#[derive(Clone, Debug)]
pub struct Arrivals {
    process: Process,
    /// The mean gap in milliseconds.
    gap_ms: f64,
    random: Random,
    now_ms: f64,
    /// Calls of the burst under way that are still to come.
    left: usize,
    /// The state of a process that has two, and when it ends.
    high: bool,
    state_ends_ms: f64,
}

impl Arrivals {
    /// The arrivals of `process` at `rate` calls a millisecond on average.
    #[must_use]
    pub fn new(process: Process, rate: f64, seed: u64) -> Self {
        let random = Random::new(seed);
        let gap_ms = 1.0 / rate;
        Self { process, gap_ms, random, now_ms: 0.0, left: 0, high: false, state_ends_ms: 0.0 }
    }

    /// Poisson arrivals at `rate` calls a millisecond.
    #[must_use]
    pub fn poisson(rate: f64, seed: u64) -> Self {
        Self::new(Process::Poisson, rate, seed)
    }

    fn step(&mut self) {
        match self.process {
            Process::Poisson => self.now_ms += self.random.exponential(self.gap_ms),
            Process::Even => self.now_ms += self.gap_ms,
            Process::Bursts(calls) => {
                // Each is an event of its own: an idle batcher sees the first one alone.
                if self.left > 0 {
                    self.now_ms += HEEL_MS;
                } else {
                    self.now_ms += self.random.exponential(self.gap_ms * calls as f64);
                    self.left = calls;
                }
                self.left -= 1;
            }
            Process::Modulated { ratio, .. } => self.thin(2.0 * ratio / (1.0 + ratio)),
            Process::OnOff { .. } => self.thin(2.0),
            Process::Wave { swing, .. } => self.thin(1.0 + swing),
            Process::Jump { factor, .. } => self.thin(factor.max(1.0)),
            Process::Ramp { .. } => self.thin(1.0),
        }
    }

    /// Goes on to the next candidate that stays; `highest` bounds [`Self::intensity`].
    fn thin(&mut self, highest: f64) {
        loop {
            self.now_ms += self.random.exponential(self.gap_ms / highest);
            let intensity = self.intensity();
            if self.random.unit() * highest < intensity {
                return;
            }
        }
    }

    /// Whether a process of two states is in the busier one now.
    fn is_high(&mut self, state_ms: f64) -> bool {
        while self.state_ends_ms <= self.now_ms {
            self.high = !self.high;
            self.state_ends_ms += self.random.exponential(state_ms);
        }
        self.high
    }

    /// The rate now as a multiple of the process's rate.
    fn intensity(&mut self) -> f64 {
        match self.process {
            Process::Modulated { ratio, state_ms } => {
                2.0 / (1.0 + ratio) * if self.is_high(state_ms) { ratio } else { 1.0 }
            }
            Process::OnOff { state_ms } => 2.0 * f64::from(self.is_high(state_ms)),
            Process::Wave { swing, period_ms } => {
                1.0 + swing * (TAU * self.now_ms / period_ms).sin()
            }
            Process::Jump { at_ms, factor } if self.now_ms >= at_ms => factor,
            Process::Ramp { over_ms } => (self.now_ms / over_ms).min(1.0),
            _ => 1.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Instant;

    fn next(&mut self) -> Option<Instant> {
        self.step();
        Some(Instant::from_nanos((self.now_ms * 1e6) as u64))
    }
}
