//! Whether the simulator agrees with what is known: theory, and figures from elsewhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::simulator::known::known;
use crate::simulator::optimum::optimum;
use crate::simulator::reference::{Central, FixedDelay, Routed, Router, Threshold};
use crate::simulator::run::{Outcome, Run, simulate};
use crate::simulator::service::{CURVES, Curve, Service};
use crate::simulator::{Arrivals, lane, span_from_ms};

const RUN: Run = Run { warm_up: 10_000, calls: 300_000, window: None, bound: 50_000 };

fn curve(name: &str) -> Curve {
    Curve::named(name).unwrap()
}

#[track_caller]
fn close(value: f64, expected: f64, tolerance: f64) {
    let error = value / expected - 1.0;
    assert!(error.abs() <= tolerance, "{value:.3} against {expected:.3}: {error:+.4}");
}

fn greedy(curve: &Curve, instances: usize, load: f64) -> Outcome {
    let service = Service::new(curve.clone(), instances);
    let arrivals = Arrivals::poisson(load * service.capacity(), 1);
    let rule = FixedDelay::greedy(curve.largest());
    simulate(Central::new(rule, instances), arrivals, service, RUN)
}

/// Without batching and with one instance the wait is that of an M/D/1 queue, rho T / (2 - 2 rho).
#[test]
fn a_queue_without_batches_waits_as_pollaczek_and_khinchine_say() {
    let service = Service::new(Curve::linear(5.0, 0.0, 1), 1);
    let arrivals = Arrivals::poisson(0.7 / 5.0, 1);
    let outcome = simulate(Central::new(FixedDelay::no_batching(), 1), arrivals, service, RUN);
    close(outcome.mean_ms, 5.0 + 0.7 * 5.0 / (2.0 - 2.0 * 0.7), 0.02);
    close(outcome.throughput, 0.7 / 5.0 * 1e3, 0.01);
}

#[test]
fn the_optimum_is_the_known_one() {
    for name in ["10+0.5", "2+0.1"] {
        let curve = curve(name);
        for point in known(&curve, 1) {
            let rate = f64::from(point.load) / 100.0 * curve.capacity();
            close(optimum(&curve, curve.largest(), rate).mean_ms, point.mean_ms, 0.005);
        }
    }
}

/// The optimum by load of 30, 70 and 90 %.
#[test]
fn the_optimum_of_a_crooked_curve_is_the_known_one() {
    for (name, means) in [
        ("padded-8", [21.40, 29.45, 37.21]),
        ("padded-16", [29.91, 30.76, 41.94]),
        ("knee-16", [14.94, 15.14, 16.80]),
        ("cliff-20", [18.07, 23.73, 29.41]),
        ("cliff-8", [8.38, 10.23, 13.42]),
    ] {
        let curve = curve(name);
        for (load, mean_ms) in [0.3, 0.7, 0.9].into_iter().zip(means) {
            let optimum = optimum(&curve, curve.largest(), load * curve.capacity());
            close(optimum.mean_ms, mean_ms, 0.016);
        }
    }
}

#[test]
fn the_optimal_policy_simulated_has_the_optimal_mean() {
    for name in CURVES {
        let curve = curve(name);
        let rate = 0.7 * curve.capacity();
        let optimum = optimum(&curve, curve.largest(), rate);
        let rule = Threshold { sizes: optimum.sizes, ..Threshold::new(rate, curve.clone()) };
        let service = Service::new(curve, 1);
        let outcome = simulate(Central::new(rule, 1), Arrivals::poisson(rate, 1), service, RUN);
        close(outcome.mean_ms, optimum.mean_ms, 0.01);
    }
}

#[test]
fn greedy_is_as_known() {
    for name in ["10+0.5", "2+0.1"] {
        for instances in [1, 4] {
            let curve = curve(name);
            for point in known(&curve, instances) {
                let outcome = greedy(&curve, instances, f64::from(point.load) / 100.0);
                close(outcome.mean_ms, point.greedy_mean_ms, 0.015);
                close(outcome.p99_ms, point.greedy_p99_ms, 0.03);
            }
        }
    }
}

#[test]
fn balance_with_full_knowledge_is_near_the_optimum() {
    for (name, tolerance) in [("10+0.5", 0.02), ("2+0.1", 0.06)] {
        let curve = curve(name);
        for point in known(&curve, 4) {
            let service = Service::new(curve.clone(), 4);
            let rate = f64::from(point.load) / 100.0 * service.capacity();
            let system = Central::new(Threshold::new(rate, curve.clone()), 4);
            let outcome = simulate(system, Arrivals::poisson(rate, 1), service, RUN);
            close(outcome.mean_ms, point.mean_ms, tolerance);
        }
    }
}

/// Batchers of their own at half load, 10 + 0.5 n, four and eight instances.
#[test]
fn one_queue_for_each_instance_is_as_dear_as_known() {
    let curve = curve("10+0.5");
    for (router, four, eight) in [
        (Router::ShortestQueue, 24.5, 25.1),
        (Router::TwoChoices, 24.0, 23.8),
        (Router::RoundRobin, 21.8, 21.7),
        (Router::Random, 22.3, 22.3),
    ] {
        for (instances, mean_ms) in [(4, four), (8, eight)] {
            let service = Service::new(curve.clone(), instances);
            let arrivals = Arrivals::poisson(0.5 * service.capacity(), 1);
            let system = Routed::new(router, FixedDelay::greedy(32), instances);
            close(simulate(system, arrivals, service, RUN).mean_ms, mean_ms, 0.03);
        }
    }
}

/// Four instances at 30 %, 10 + 0.5 n.
#[test]
fn fixed_delays_are_as_known() {
    for (delay_ms, mean_ms, p99_ms) in
        [(1.0, 16.79, 26.88), (2.0, 15.21, 23.41), (5.0, 17.43, 22.0)]
    {
        let service = Service::new(curve("10+0.5"), 4);
        let arrivals = Arrivals::poisson(0.3 * service.capacity(), 1);
        let rule = FixedDelay { delay: span_from_ms(delay_ms), largest: 32 };
        let outcome = simulate(Central::new(rule, 4), arrivals, service, RUN);
        close(outcome.mean_ms, mean_ms, 0.01);
        close(outcome.p99_ms, p99_ms, 0.02);
    }
}

/// The lane sends what greedy late binding sends, when it sends it.
#[test]
fn the_lane_under_the_greedy_policy_is_greedy() {
    let service = Service::new(curve("10+0.5"), 4);
    let arrivals = Arrivals::poisson(0.5 * service.capacity(), 1);
    let system = lane::Shipped::new(lane::plan(4, Some(32)), lane::greedy(4));
    let run = Run { calls: 100_000, ..RUN };
    let shipped = simulate(system, arrivals.clone(), service.clone(), run);
    let central = simulate(Central::new(FixedDelay::greedy(32), 4), arrivals, service, run);
    close(shipped.mean_ms, central.mean_ms, 1e-9);
    close(shipped.p99_ms, central.p99_ms, 1e-9);
}

#[test]
fn a_batch_past_a_cliff_is_unstable_for_the_greedy() {
    assert!(!greedy(&curve("cliff-20"), 4, 0.9).is_stable());
    assert!(greedy(&curve("cliff-20"), 4, 0.3).is_stable());
}
