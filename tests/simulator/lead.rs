//! What sending the next batch ahead gains where batches travel.

use batchwise::lane::LanePlan;

use crate::simulator::run::{Outcome, Run, simulate};
use crate::simulator::service::{Curve, Service};
use crate::simulator::{Arrivals, lane, span_from_ms};

fn run(instances: usize, load: f64, early_slot: bool) -> Outcome {
    let mut service = Service::new(Curve::linear(10.0, 0.5, 32), instances);
    service.network = span_from_ms(0.5);
    let arrivals = Arrivals::poisson(load * service.capacity(), 1);
    let plan = LanePlan { early_slot, ..lane::plan(instances, Some(32)) };
    let system = lane::Shipped::new(plan, lane::shipped(instances));
    simulate(
        system,
        arrivals,
        service,
        Run { warm_up: 6_000, calls: 30_000, window: None, bound: 20_000 },
    )
}

/// Half a millisecond there and half a millisecond back: with one instance that is what each batch
/// waits for, and at a high load much more.
#[test]
fn an_instance_does_not_idle_while_batches_travel() {
    for (instances, load, gain) in [
        (1, 0.1, 0.98),
        (1, 0.5, 0.98),
        (1, 0.9, 0.97),
        (4, 0.1, 1.0),
        (4, 0.5, 1.0),
        (4, 0.9, 0.99),
    ] {
        let late = run(instances, load, false);
        let ahead = run(instances, load, true);
        assert!(
            ahead.mean_ms <= gain * late.mean_ms,
            "{instances} instances at {load}: {:.2} ms ahead, {:.2} ms else",
            ahead.mean_ms,
            late.mean_ms
        );
    }
}
