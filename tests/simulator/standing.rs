//! Controlled delay: a queue that stands is kept short, and one that only takes in a burst is not.

use batchwise::lane::{ControlledDelay, Instant, LanePlan, Span};

use crate::simulator::run::{Outcome, Run, simulate};
use crate::simulator::service::{Curve, Service};
use crate::simulator::{Arrivals, lane};

const CALLS: usize = 60_000;

fn run(controlled_delay: Option<ControlledDelay>, load: f64) -> (Outcome, f64) {
    let curve = Curve::linear(10.0, 0.5, 32);
    let service = Service::new(curve.clone(), 2).with_noise(0.03);
    let capacity = service.capacity();
    let plan =
        LanePlan { max_queue_rows: 4096, controlled_delay, ..lane::plan(2, Some(curve.largest())) };
    let system = lane::Shipped::new(plan, lane::shipped(2));
    let arrivals = Arrivals::poisson(load * capacity, 1);
    let run = Run { warm_up: 20_000, calls: CALLS, window: None, bound: 50_000 };
    let shown = simulate(system, arrivals, service, run);
    let answered = CALLS - shown.refused;
    (shown, answered as f64 / (CALLS as f64 / load))
}

#[test]
fn a_standing_queue_is_kept_short_and_costs_no_throughput() {
    let largest_ms = Curve::linear(10.0, 0.5, 32).time_ms(32);
    let (without, _) = run(None, 1.5);
    assert!(without.p50_ms > 20.0 * largest_ms, "it stands without: {:.0} ms", without.p50_ms);
    let targets = [
        (ControlledDelay::Learned, 2.0 * largest_ms),
        (ControlledDelay::Fixed(Span::from_millis(200)), 200.0),
    ];
    for (controlled, target_ms) in targets {
        let (with, goodput) = run(Some(controlled), 1.5);
        assert!(goodput > 0.95, "{controlled:?}: {goodput:.3} of the capacity");
        // It may stand for four batches before anything is done, and its own batch and the one before it come on top.
        let most = target_ms + 6.0 * largest_ms;
        assert!(with.p99_ms < most, "{controlled:?}: {:.0} ms, {most:.0} at most", with.p99_ms);
    }
}

#[test]
fn below_the_capacity_nobody_is_refused() {
    let (shown, _) = run(Some(ControlledDelay::Learned), 0.9);
    assert_eq!(shown.refused, 0);
}

#[test]
fn a_burst_is_taken_in_whole() {
    let curve = Curve::linear(10.0, 0.5, 32);
    let service = Service::new(curve.clone(), 2);
    let capacity = service.capacity();
    let plan = LanePlan {
        controlled_delay: Some(ControlledDelay::Learned),
        ..lane::plan(2, Some(curve.largest()))
    };
    let system = lane::Shipped::new(plan, lane::shipped(2));
    // What two instances need more than a second for comes at once, after a calm start.
    let calm = Arrivals::poisson(0.5 * capacity, 1);
    let at = Instant::default() + Span::from_secs(20);
    let before = calm.take_while(move |&arrival| arrival < at).collect::<Vec<_>>();
    let run = Run { warm_up: 0, calls: before.len() + 3_000, window: None, bound: 50_000 };
    let arrivals = before.into_iter().chain(std::iter::repeat_n(at, 3_000));
    let shown = simulate(system, arrivals, service, run);
    assert_eq!((shown.refused, shown.failed), (0, 0));
}
