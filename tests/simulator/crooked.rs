//! The shipped policy on curves that are not straight, which it has to find out while it serves:
//! padding, knees, cliffs, noise. The largest batch is told, and is too large on most of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::row::{Misses, Row};
use crate::simulator::run::Run;
use crate::simulator::search::best_sizes;

const LOADS: [u32; 3] = [30, 70, 90];
/// To the best mean with full knowledge.
const MEAN: f64 = 1.05;
/// More calls under way than these are a queue without end: greedy gets there well within a run
/// where a full batch is slower than the load.
const BOUND: usize = 2_500;

#[test]
fn padding_to_eights() {
    compare("padded-8", true);
}

#[test]
fn padding_to_sixteens() {
    compare("padded-16", true);
}

#[test]
fn a_knee_at_sixteen() {
    compare("knee-16", false);
}

#[test]
fn a_cliff_above_twenty() {
    compare("cliff-20", false);
}

#[test]
fn a_steep_cliff_above_eight() {
    compare("cliff-8", false);
}

#[test]
fn noise_of_a_tenth() {
    compare_noisy(0.1);
}

#[test]
fn noise_of_three_tenths() {
    compare_noisy(0.3);
}

fn run(load: u32) -> Run {
    let calls = if load < 90 { 8_000 } else { 24_000 };
    Run { warm_up: 6_000, calls, window: None, bound: BOUND }
}

/// `full_is_stable`: whether batches of the told size can carry 90 %.
fn compare(curve: &str, full_is_stable: bool) {
    let mut misses = Misses::default();
    for instances in [1, 4] {
        for load in LOADS {
            let row = Row::poisson(curve, instances, load, run(load));
            against_the_best(&mut misses, &row);
            if load == 90 {
                let greedy = row.delayed(0.0).is_stable();
                misses.expect(greedy == full_is_stable, || {
                    format!("{row}: greedy is stable: {greedy}, expected: {full_is_stable}")
                });
            }
        }
    }
    misses.none();
}

/// 10 + 0.5 n with noise on every time.
fn compare_noisy(noise: f64) {
    let mut misses = Misses::default();
    for instances in [1, 4] {
        for load in LOADS {
            let row = Row::noisy("10+0.5", instances, load, noise, run(load));
            against_the_best(&mut misses, &row);
        }
    }
    misses.none();
}

/// Against the best sizes with full knowledge, on these very arrivals.
fn against_the_best(misses: &mut Misses, row: &Row) {
    let shipped = row.shipped();
    misses.expect(shipped.is_stable(), || format!("{row}: unstable"));
    let (best_ms, by) = best_sizes(&row.service, &row.arrivals, row.rate, row.run).unwrap();
    let by = by.to_string();
    misses.check(row, "mean", shipped.mean_ms, MEAN, (best_ms, &by));
}
