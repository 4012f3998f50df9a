//! The shipped policy when something changes or breaks in mid-run: how soon it is back, and that no
//! call is lost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use batchwise::lane::{Blame, Span};

use crate::row::Misses;
use crate::simulator::arrivals::Arrivals;
use crate::simulator::disturbances::{Disturbance, Recovery};
use crate::simulator::known::known;
use crate::simulator::ms;
use crate::simulator::run::{Outcome, Run, simulate};
use crate::simulator::search::best_sizes;
use crate::simulator::service::{Curve, Service};

/// Simulations of each disturbance.
const SEEDS: u64 = 2;
/// Back means within so much of the new level.
const BACK: f64 = 1.10;
/// One policy is as good as another within so much.
const AS_GOOD: f64 = 1.05;

/// The best mean known for 10 + 0.5 n in milliseconds.
fn known_ms(instances: usize, load: u32) -> f64 {
    let known = known(&Curve::linear(10.0, 0.5, 32), instances);
    known.iter().find(|point| point.load == load).unwrap().mean_ms
}

fn seconds(from: u64, to: u64) -> (Span, Span) {
    (Span::from_secs(from), Span::from_secs(to))
}

/// Asks for the mean within a span of time after the disturbance.
#[track_caller]
fn back(
    disturbance: &Disturbance,
    recovery: &Recovery,
    (from, to): (Span, Span),
    factor: f64,
    level: (f64, &str),
) {
    let mut misses = Misses::default();
    let mean_ms = recovery.mean_between(from, to);
    let figure = format!("mean {} to {} ms after", ms(from), ms(to));
    misses.check(&disturbance.name, &figure, mean_ms, factor, level);
    misses.expect(recovery.lost == 0, || {
        format!("{}: {} of {} calls lost", disturbance.name, recovery.lost, recovery.calls)
    });
    misses.none();
}

/// From 35 % of the capacity, for what is above a half is above the whole afterwards.
fn slower(instances: usize) {
    let disturbance = Disturbance::slowdown(instances, 0.35, 2.0);
    let recovery = disturbance.run(SEEDS);
    let level = 2.0 * known_ms(instances, 70);
    let when = (Span::from_millis(1500), Span::from_millis(4500));
    back(&disturbance, &recovery, when, BACK, (level, "70 % of the new capacity"));
}

#[test]
fn one_instance_that_slows_down_is_back_within_a_second_and_a_half() {
    slower(1);
}

#[test]
fn four_instances_that_slow_down_are_back_within_a_second_and_a_half() {
    slower(4);
}

fn busier(instances: usize) {
    let disturbance = Disturbance::surge(instances, 0.05, 10.0);
    let recovery = disturbance.run(SEEDS);
    let level = (known_ms(instances, 50), "half the load");
    back(&disturbance, &recovery, seconds(1, 4), BACK, level);
}

#[test]
fn ten_times_the_calls_are_served_as_ever_within_a_second() {
    busier(1);
    busier(4);
}

#[test]
fn a_cliff_that_appears_is_found_and_the_backlog_drained() {
    let disturbance = Disturbance::cliff(4, 0.55);
    let recovery = disturbance.run(SEEDS);
    let curve = Curve::linear(10.0, 0.5, 32).cliff(12, 2.5);
    let run = Run { warm_up: 5_000, calls: 50_000, window: None, bound: 20_000 };
    let arrivals = Arrivals::poisson(disturbance.rate, 1);
    let (best_ms, by) =
        best_sizes(&Service::new(curve, 4), &arrivals, disturbance.rate, run).unwrap();
    let by = format!("{by}, all known");
    back(&disturbance, &recovery, seconds(10, 20), BACK, (best_ms, &by));
}

/// With two instances a cliff may look like first one and then the other becoming slow; the seeds are
/// of runs in which it does.
#[test]
fn a_cliff_is_not_taken_for_two_slow_instances() {
    for (load, seeds, best_ms) in
        [(0.4, [10, 31, 32, 48].as_slice(), 18.0), (0.55, &[37, 43, 45], 22.0)]
    {
        let disturbance = Disturbance::cliff(2, load);
        let recovery = disturbance.run_seeds(seeds.iter().copied());
        let level = (best_ms, "what other seeds settle at");
        back(&disturbance, &recovery, seconds(12, 20), 1.15, level);
    }
}

fn steady(disturbance: &Disturbance, seed: u64) -> Outcome {
    let run = Run { warm_up: 8_000, calls: 30_000, window: None, bound: 20_000 };
    let arrivals = Arrivals::poisson(disturbance.rate, seed);
    simulate(disturbance.system(), arrivals, disturbance.service.clone(), run)
}

/// Three healthy instances alone, at 70 % of what they can do.
fn three_alone(seed: u64) -> f64 {
    let mut three = Disturbance::slow_instance(4, 0.7, 1.0).from_the_start();
    three.service.instances.pop();
    steady(&three, seed).mean_ms
}

/// One of four that is so many times as slow from the first batch on, at 70 % of the capacity of the
/// other three: as good as those alone.
#[test]
fn an_instance_that_is_slow_from_the_start_does_no_harm() {
    let mut misses = Misses::default();
    for seed in [1, 2] {
        let three_ms = three_alone(seed);
        for slowness in [4.0, 5.0] {
            let disturbance = Disturbance::slow_instance(4, 0.7, slowness).from_the_start();
            let four = steady(&disturbance, seed);
            let place = format!("{}, seed {seed}", disturbance.name);
            misses.check(&place, "mean", four.mean_ms, AS_GOOD, (three_ms, "three alone"));
        }
    }
    misses.none();
}

#[test]
fn an_instance_that_becomes_slow_does_no_harm() {
    let disturbance = Disturbance::slow_instance(4, 0.7, 5.0);
    let level = (three_alone(1), "three alone");
    back(&disturbance, &disturbance.run(SEEDS), seconds(1, 6), AS_GOOD, level);
}

#[track_caller]
fn failing(blame: Blame) {
    for disturbance in [
        Disturbance::failing_instance(4, 0.7, blame),
        Disturbance::failing_instance(4, 0.7, blame).from_the_start(),
    ] {
        let level = (three_alone(1), "three alone");
        back(&disturbance, &disturbance.run(SEEDS), seconds(1, 6), AS_GOOD, level);
    }
}

#[test]
fn an_instance_that_breaks_connections_fails_no_call() {
    failing(Blame::Connection);
}

#[test]
fn an_instance_that_answers_errors_fails_no_call() {
    failing(Blame::Broken);
}

/// Nothing that was said, or too much: in both cases the limit is learned from what fails, and the
/// calls of a batch that failed are served in parts.
#[test]
fn batches_that_are_too_large_fail_no_call() {
    for instances in [1, 4] {
        let when = seconds(3, 6);
        let told = Disturbance::size_limit(instances, 0.6, 20, Some(20)).run(SEEDS);
        let level = (told.mean_between(when.0, when.1), "the limit told");
        for said in [None, Some(32)] {
            let disturbance = Disturbance::size_limit(instances, 0.6, 20, said);
            back(&disturbance, &disturbance.run(SEEDS), when, AS_GOOD, level);
        }
    }
}

#[test]
fn a_limit_that_nobody_told_is_as_good_as_one_told() {
    for instances in [1, 4] {
        let when = seconds(3, 6);
        let told = Disturbance::size_limit(instances, 0.7, 32, Some(32)).run(SEEDS);
        let level = (told.mean_between(when.0, when.1), "the limit told");
        let disturbance = Disturbance::size_limit(instances, 0.7, 32, None);
        back(&disturbance, &disturbance.run(SEEDS), when, AS_GOOD, level);
    }
}
