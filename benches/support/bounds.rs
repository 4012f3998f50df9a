//! The best that any batching policy can do, by simulation: what a measured mean and p99 are held
//! against. Poisson arrivals, latency is queueing plus service, nothing else. The optimum is exact
//! for one instance and a dynamic program with full knowledge for four.

use std::time::Duration;

/// A service time a + b n, up to a largest batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Curve {
    /// 10 ms + 0.5 ms a row, at most 32 rows.
    #[value(name = "10+0.5")]
    TenAndHalf,
    /// 2 ms + 0.1 ms a row, at most 64 rows.
    #[value(name = "2+0.1")]
    TwoAndTenth,
}

impl Curve {
    /// The part that every batch costs.
    pub fn base(self) -> Duration {
        match self {
            Self::TenAndHalf => Duration::from_millis(10),
            Self::TwoAndTenth => Duration::from_millis(2),
        }
    }

    /// The part that every row costs.
    pub fn per_row(self) -> Duration {
        match self {
            Self::TenAndHalf => Duration::from_micros(500),
            Self::TwoAndTenth => Duration::from_micros(100),
        }
    }

    /// Rows in the largest batch.
    pub fn max_batch(self) -> u32 {
        match self {
            Self::TenAndHalf => 32,
            Self::TwoAndTenth => 64,
        }
    }

    /// Rows a second that one instance can do, batches full.
    pub fn capacity(self) -> f64 {
        let rows = self.max_batch();
        f64::from(rows) / (self.base() + self.per_row() * rows).as_secs_f64()
    }

    /// A row alone on an idle instance.
    pub fn alone(self) -> Duration {
        self.base() + self.per_row()
    }
}

/// Mean and p99 in milliseconds at one load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The least mean latency.
    pub mean_ms: f64,
    /// The least p99 latency known.
    pub p99_ms: f64,
}

/// The loads of the table, in percent of the capacity.
pub const LOADS: [u32; 5] = [10, 30, 50, 70, 90];

/// The bound for a load of [`LOADS`]; `None` for other loads and numbers of instances.
pub fn bound(curve: Curve, instances: usize, load_percent: u32) -> Option<Bound> {
    let rows: [(f64, f64); 5] = match (curve, instances) {
        (Curve::TenAndHalf, 1) => {
            [(15.56, 22.46), (18.90, 26.96), (22.28, 32.63), (27.07, 40.57), (35.06, 55.58)]
        }
        (Curve::TenAndHalf, 4) => {
            [(11.96, 14.68), (14.24, 17.68), (16.95, 21.01), (20.73, 26.01), (26.49, 32.73)]
        }
        (Curve::TwoAndTenth, 1) => {
            [(3.23, 4.59), (4.00, 5.76), (4.98, 7.40), (6.60, 10.06), (9.79, 15.24)]
        }
        (Curve::TwoAndTenth, 4) => {
            [(2.45, 3.04), (3.03, 3.73), (3.82, 4.77), (5.08, 6.39), (7.51, 9.47)]
        }
        _ => return None,
    };
    let at = LOADS.iter().position(|load| *load == load_percent)?;
    rows.get(at).map(|&(mean_ms, p99_ms)| Bound { mean_ms, p99_ms })
}
