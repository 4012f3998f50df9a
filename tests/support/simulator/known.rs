//! Figures to hold against what is simulated here: Poisson arrivals, latency is queueing plus
//! service, nothing else. They come from another simulator and another program, with full
//! knowledge, so that agreement means something.

use super::service::Curve;

/// One point of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The load in per cent of the capacity.
    pub load: u32,
    /// The optimal mean in milliseconds: exact for one instance, for four a dynamic program, good
    /// to one per cent.
    pub mean_ms: f64,
    /// The least 99th percentile of some forty policies in milliseconds.
    pub p99_ms: f64,
    /// The mean of greedy late binding in milliseconds.
    pub greedy_mean_ms: f64,
    /// The 99th percentile of greedy late binding in milliseconds.
    pub greedy_p99_ms: f64,
}

/// What is known of a curve with so many instances; empty for what is not in the table.
#[must_use]
pub fn known(curve: &Curve, instances: usize) -> Vec<Known> {
    let linear = |base, per_row, largest| *curve == Curve::linear(base, per_row, largest);
    let table = if linear(10.0, 0.5, 32) {
        if instances == 1 { &TEN_AND_HALF_ONE } else { &TEN_AND_HALF_FOUR }
    } else if linear(2.0, 0.1, 64) {
        if instances == 1 { &TWO_AND_TENTH_ONE } else { &TWO_AND_TENTH_FOUR }
    } else {
        return Vec::new();
    };
    if instances != 1 && instances != 4 {
        return Vec::new();
    }
    let point = |&(load, mean_ms, p99_ms, greedy_mean_ms, greedy_p99_ms): &Row| Known {
        load,
        mean_ms,
        p99_ms,
        greedy_mean_ms,
        greedy_p99_ms,
    };
    table.iter().map(point).collect()
}

/// The fields of [`Known`] in their order.
type Row = (u32, f64, f64, f64, f64);

const TEN_AND_HALF_ONE: [Row; 5] = [
    (10, 15.56, 22.46, 15.56, 22.46),
    (30, 18.90, 26.96, 18.94, 26.96),
    (50, 22.28, 32.63, 22.29, 32.64),
    (70, 27.07, 40.57, 27.08, 40.62),
    (90, 35.06, 55.58, 35.08, 55.62),
];

const TEN_AND_HALF_FOUR: [Row; 5] = [
    (10, 11.96, 14.68, 12.43, 19.08),
    (30, 14.24, 17.68, 17.11, 27.56),
    (50, 16.95, 21.01, 20.44, 33.45),
    (70, 20.73, 26.01, 24.38, 36.39),
    (90, 26.49, 32.73, 29.87, 41.00),
];

const TWO_AND_TENTH_ONE: [Row; 5] = [
    (10, 3.23, 4.59, 3.23, 4.60),
    (30, 4.00, 5.76, 4.00, 5.77),
    (50, 4.98, 7.40, 4.98, 7.40),
    (70, 6.60, 10.06, 6.60, 10.07),
    (90, 9.79, 15.24, 9.79, 15.24),
];

const TWO_AND_TENTH_FOUR: [Row; 5] = [
    (10, 2.45, 3.04, 2.62, 4.10),
    (30, 3.03, 3.73, 3.62, 5.89),
    (50, 3.82, 4.77, 4.68, 7.84),
    (70, 5.08, 6.39, 6.34, 10.64),
    (90, 7.51, 9.47, 8.56, 12.06),
];
