//! Under a latency objective: what is answered in time, as a share of what the instances can do.

use batchwise::lane::{LanePlan, Objective};

use crate::simulator::run::{Run, simulate};
use crate::simulator::service::{Curve, Service};
use crate::simulator::{Arrivals, lane, span_from_ms};

const OBJECTIVE_MS: f64 = 30.0;

/// Answered in time by load, as a share of the capacity, of the best threshold found with full
/// knowledge of rate and curve: 10 + 0.5 n, 30 ms, of which a full batch alone takes 26.
const BEST_THRESHOLD: [(f64, f64, f64); 8] = [
    // load, 1 instance, 4 instances
    (0.5, 0.482, 0.500),
    (0.7, 0.581, 0.700),
    (0.9, 0.642, 0.871),
    (1.0, 0.663, 0.906),
    (1.05, 0.676, 0.912),
    (1.2, 0.697, 0.933),
    (1.5, 0.754, 0.974),
    (2.0, 0.801, 0.998),
];

#[test]
fn goodput_is_that_of_a_threshold_search_that_knows_everything() {
    for (load, one, four) in BEST_THRESHOLD {
        for (instances, best) in [(1, one), (4, four)] {
            let service = Service::new(Curve::linear(10.0, 0.5, 32), instances);
            let arrivals = Arrivals::poisson(load * service.capacity(), 1);
            let within = span_from_ms(OBJECTIVE_MS);
            let plan = LanePlan {
                objective: Some(Objective { within, priority: 1 }),
                ..lane::plan(instances, Some(32))
            };
            let system = lane::Shipped::new(plan, lane::shipped(instances));
            let run = Run { warm_up: 20_000, calls: 60_000, window: None, bound: 50_000 };
            let outcome = simulate(system, arrivals, service, run);
            let goodput = outcome.within(within) * load;
            assert!(
                goodput >= 0.96 * best,
                "{instances} instances at {load}: {goodput:.3} of the capacity in time, {best} is the best"
            );
            assert!(
                outcome.p99_ms <= OBJECTIVE_MS,
                "{instances} instances at {load}: p99 {:.1} ms of what is answered",
                outcome.p99_ms
            );
        }
    }
}
