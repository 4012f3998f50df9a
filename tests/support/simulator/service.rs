//! How long a batch takes, and whether it fails.

use batchwise::lane::{Instant, Span};

use super::random::Random;
use super::{ms, span_from_ms};

/// The service time of a batch by its number of rows, T(n), up to a largest batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Milliseconds of one row, two rows and so on.
    times_ms: Vec<f64>,
}

impl Curve {
    /// Any curve: `time_ms` of 1 to `largest` rows.
    pub fn new(largest: usize, time_ms: impl Fn(f64) -> f64) -> Self {
        Self { times_ms: (1..=largest.max(1)).map(|rows| time_ms(rows as f64)).collect() }
    }

    /// `base_ms` a batch and `per_row_ms` a row.
    #[must_use]
    pub fn linear(base_ms: f64, per_row_ms: f64, largest: usize) -> Self {
        Self::new(largest, |rows| base_ms + per_row_ms * rows)
    }

    /// The same, but every batch costs as much as the next multiple of `multiple` rows.
    #[must_use]
    pub fn padded(self, multiple: usize) -> Self {
        let largest = self.largest();
        Self::new(largest, |rows| {
            let padded = (rows as usize).div_ceil(multiple) * multiple;
            self.time_ms(padded.min(largest))
        })
    }

    /// Flat up to a size, then `per_row_ms` for each row beyond.
    #[must_use]
    pub fn knee(flat_ms: f64, up_to: usize, per_row_ms: f64, largest: usize) -> Self {
        Self::new(largest, |rows| flat_ms + per_row_ms * (rows - up_to as f64).max(0.0))
    }

    /// The same, but batches of more than `above` rows take `factor` times as long.
    #[must_use]
    pub fn cliff(self, above: usize, factor: f64) -> Self {
        let cliff = |rows: f64| if rows as usize > above { factor } else { 1.0 };
        Self::new(self.largest(), |rows| self.time_ms(rows as usize) * cliff(rows))
    }

    /// `factor` times as long.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { times_ms: self.times_ms.iter().map(|time| time * factor).collect() }
    }

    /// The most rows of one batch.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.times_ms.len()
    }

    /// The time of a batch of `rows` in milliseconds; of the largest where `rows` is beyond it.
    #[must_use]
    pub fn time_ms(&self, rows: usize) -> f64 {
        self.times_ms[rows.clamp(1, self.largest()) - 1]
    }

    /// The same on the clock.
    #[must_use]
    pub fn time(&self, rows: usize) -> Span {
        span_from_ms(self.time_ms(rows))
    }

    /// The most rows a millisecond that one instance can do: the largest n/T(n).
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.efficiency(self.most_efficient())
    }

    /// The batch size with the most rows a millisecond.
    #[must_use]
    pub fn most_efficient(&self) -> usize {
        let better = |&a: &usize, &b: &usize| self.efficiency(a).total_cmp(&self.efficiency(b));
        (1..=self.largest()).max_by(better).unwrap_or(1)
    }

    fn efficiency(&self, rows: usize) -> f64 {
        rows as f64 / self.time_ms(rows)
    }
}

/// The curves that a policy is held against, by name.
pub const CURVES: [&str; 9] =
    ["10+0.5", "2+0.1", "2+0.9", "padded-8", "padded-16", "knee-16", "cliff-20", "cliff-8", "5+0"];

impl Curve {
    /// One of [`CURVES`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "10+0.5" => Self::linear(10.0, 0.5, 32),
            "2+0.1" => Self::linear(2.0, 0.1, 64),
            "2+0.9" => Self::linear(2.0, 0.9, 32),
            "padded-8" => Self::linear(10.0, 0.5, 32).padded(8),
            "padded-16" => Self::linear(4.0, 1.0, 32).padded(16),
            "knee-16" => Self::knee(10.0, 16, 1.0, 32),
            "cliff-20" => Self::linear(10.0, 0.5, 32).cliff(20, 1.7),
            "cliff-8" => Self::linear(5.0, 0.3, 32).cliff(8, 3.0),
            "5+0" => Self::linear(5.0, 0.0, 32),
            _ => return None,
        })
    }
}

/// What is particular about one instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instance {
    /// Its times as a multiple of the curve's: 5 is five times as slow.
    pub slowness: f64,
    /// It answers every batch with an error, at once after this long.
    pub errors_after: Option<Span>,
}

impl Instance {
    /// As the curve says.
    pub const USUAL: Self = Self { slowness: 1.0, errors_after: None };
}

/// The instances behind a batcher.
#[derive(Clone, Debug)]
pub struct Service {
    /// The time of a batch, before noise.
    pub curve: Curve,
    /// Another curve from some time on.
    pub change: Option<(Instant, Curve)>,
    /// Another nature of one instance from some time on: when, its index, what it then is.
    pub turn: Option<(Instant, usize, Instance)>,
    /// The coefficient of variation of log-normal noise on every time.
    pub noise: f64,
    /// The probability that a batch is a straggler, and how many times as long it then takes.
    pub stragglers: (f64, f64),
    /// Batches of more rows fail, after the time they would have taken.
    pub fails_above: Option<usize>,
    /// One way to an instance or back.
    pub network: Span,
    /// The instances; each serves one batch at a time, in the order of their coming.
    pub instances: Vec<Instance>,
    random: Random,
}

impl Service {
    /// So many equal instances, without noise or faults.
    #[must_use]
    pub fn new(curve: Curve, instances: usize) -> Self {
        Self {
            curve,
            change: None,
            turn: None,
            noise: 0.0,
            stragglers: (0.0, 1.0),
            fails_above: None,
            network: Span::ZERO,
            instances: vec![Instance::USUAL; instances],
            random: Random::new(0),
        }
    }

    /// The same with this noise.
    #[must_use]
    pub fn with_noise(self, noise: f64) -> Self {
        Self { noise, ..self }
    }

    /// The same with another seed of noise and stragglers.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { random: Random::new(seed), ..self }
    }

    /// The most rows a millisecond that all instances together can do at the start.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.instances.len() as f64 * self.curve.capacity()
    }

    /// How long a batch takes that `instance` begins at `now`, and whether it succeeds.
    pub(super) fn serve(&mut self, now: Instant, instance: usize, rows: usize) -> (Span, bool) {
        let Instance { slowness, errors_after } = match self.turn {
            Some((at, turned, nature)) if turned == instance && at <= now => nature,
            _ => self.instances[instance],
        };
        if let Some(after) = errors_after {
            return (after, false);
        }
        let curve = match &self.change {
            Some((at, curve)) if *at <= now => curve,
            _ => &self.curve,
        };
        let mut factor = slowness;
        if self.noise > 0.0 {
            factor *= self.random.log_normal(self.noise);
        }
        if self.stragglers.0 > 0.0 && self.random.chance(self.stragglers.0) {
            factor *= self.stragglers.1;
        }
        let succeeds = self.fails_above.is_none_or(|above| rows <= above);
        (span_from_ms(ms(curve.time(rows)) * factor), succeeds)
    }
}
