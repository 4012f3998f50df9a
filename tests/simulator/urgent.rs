//! Urgent calls among far more bulk than the instances can bear.

use std::cell::RefCell;
use std::rc::Rc;

use batchwise::lane::{Instant, LanePlan};

use crate::simulator::random::Random;
use crate::simulator::run::{Run, simulate};
use crate::simulator::service::{Curve, Service};
use crate::simulator::system::{Dispatch, Refusal, System};
use crate::simulator::{Arrivals, lane};

const INSTANCES: usize = 4;
/// Of the capacity.
const OFFERED: f64 = 5.0;
/// Of the calls.
const URGENT_SHARE: f64 = 0.05;

/// The time of a batch and of each of its rows, how much it varies, and the 99th percentile that follows
/// at most where that of urgent calls alone is much better: so many times what full batches evenly out
/// of step allow.
const CASES: [(f64, f64, f64, f64); 6] = [
    (20.0, 0.1, 0.03, 1.0),
    (40.0, 2.0, 0.0, 0.95),
    (40.0, 2.0, 0.005, 0.95),
    (10.0, 0.5, 0.03, 1.0),
    (2.0, 0.75, 0.03, 1.0),
    (5.0, 0.1, 0.05, 1.1),
];

type Latencies = Rc<RefCell<Vec<f64>>>;

/// A system that takes down how long urgent calls take.
struct Watched<S> {
    system: S,
    priorities: Vec<u8>,
    arrived: Vec<Instant>,
    urgent_ms: Latencies,
    bulk: Rc<RefCell<usize>>,
    ended: Rc<RefCell<Instant>>,
}

impl<S: System> System for Watched<S> {
    fn arrive(&mut self, now: Instant, call: usize) {
        self.arrived.push(now);
        self.system.arrive(now, call);
    }

    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool) {
        *self.ended.borrow_mut() = now;
        for &call in &batch.calls {
            match self.priorities[call] {
                1 => {
                    let waited = now.since(self.arrived[call]).as_nanos() as f64 / 1e6;
                    self.urgent_ms.borrow_mut().push(waited);
                }
                _ => *self.bulk.borrow_mut() += 1,
            }
        }
        self.system.done(now, batch, succeeded);
    }

    fn next(&mut self, now: Instant) -> Option<Dispatch> {
        self.system.next(now)
    }

    fn wake_at(&self) -> Option<Instant> {
        self.system.wake_at()
    }

    fn refused(&mut self) -> Option<Refusal> {
        self.system.refused()
    }

    fn recalled(&mut self) -> Option<u64> {
        self.system.recalled()
    }
}

struct Shown {
    throughput: f64,
    p99_ms: f64,
    bulk_share: f64,
}

fn run(curve: &Curve, noise: f64, load: f64, urgent_share: f64) -> Shown {
    const CALLS: usize = 160_000;
    let service = Service::new(curve.clone(), INSTANCES).with_noise(noise);
    let mut random = Random::new(3);
    let priorities: Vec<u8> =
        (0..4 * CALLS).map(|_| if random.unit() < urgent_share { 1 } else { 3 }).collect();
    let arrivals = Arrivals::poisson(load * service.capacity(), 1);
    let plan = LanePlan {
        max_queue_rows: 4096,
        learn_slots: true,
        early_slot: true,
        ..lane::plan(INSTANCES, Some(curve.largest()))
    };
    let levels = priorities.clone();
    let terms = move |call: usize| lane::Terms { deadline: None, priority: levels[call] };
    let (urgent_ms, bulk, ended) = (Latencies::default(), Rc::default(), Rc::default());
    let system = Watched {
        system: lane::Shipped::new(plan, lane::shipped(INSTANCES)).with_terms(terms),
        priorities,
        arrived: Vec::new(),
        urgent_ms: Rc::clone(&urgent_ms),
        bulk: Rc::clone(&bulk),
        ended: Rc::clone(&ended),
    };
    let capacity = service.capacity();
    let run = Run { warm_up: 20_000, calls: CALLS, window: None, bound: 50_000 };
    simulate(system, arrivals, service, run);
    let served = (urgent_ms.borrow().len() + *bulk.borrow()) as f64;
    let elapsed_ms = ended.borrow().since(Instant::default()).as_nanos() as f64 / 1e6;
    let mut urgent_ms = urgent_ms.take();
    // The first ones are served by what has learned nothing.
    urgent_ms.drain(..urgent_ms.len() / 20);
    urgent_ms.sort_unstable_by(f64::total_cmp);
    Shown {
        throughput: served / elapsed_ms / capacity,
        p99_ms: urgent_ms[urgent_ms.len() * 99 / 100],
        bulk_share: *bulk.borrow() as f64 / served,
    }
}

/// A full batch that has just begun on every instance is the least that an urgent call may meet, and
/// its own comes on top; instances out of step end one after the other.
#[test]
fn urgent_calls_wait_for_the_next_batch_and_no_more() {
    for (base, per_row, noise, most) in CASES {
        let curve = Curve::linear(base, per_row, 32);
        let alone = run(&curve, noise, OFFERED * URGENT_SHARE, 1.0);
        let among = run(&curve, noise, OFFERED, URGENT_SHARE);
        let floor = curve.time_ms(32) * (1.0 + 1.0 / INSTANCES as f64);
        println!(
            "{base} + {per_row} n, {noise}: {:.3} of the capacity, bulk {:.3}; p99 {:.1} ms, {:.2} x alone, {:.2} x {floor:.1} ms",
            among.throughput,
            among.bulk_share,
            among.p99_ms,
            among.p99_ms / alone.p99_ms,
            among.p99_ms / floor
        );

        assert!(among.throughput >= 0.95, "{:.3} of the capacity", among.throughput);

        assert!(among.bulk_share >= 0.05, "bulk has {:.3}", among.bulk_share);
        let bound = (1.5 * alone.p99_ms).max(most * floor);

        assert!(among.p99_ms <= bound, "p99 {:.1} ms, {bound:.1} at most", among.p99_ms);
    }
}
