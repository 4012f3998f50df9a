//! The clock of the simulation and what it has shown.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use batchwise::lane::{Instant, Span};

use super::ms;
use super::service::Service;
use super::system::{Dispatch, System};

/// How long a simulation is and what is counted.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The first calls, which are not counted: the system starts empty and has learned nothing.
    pub warm_up: usize,
    /// The calls after them, which are.
    pub calls: usize,
    /// The length of a window of the series; `None` for no series.
    pub window: Option<Span>,
    /// A system with more calls under way than this is called unstable, and the run ends.
    pub bound: usize,
}

impl Run {
    /// So many calls after a tenth as many of warm-up, at least 20,000.
    #[must_use]
    pub fn of(calls: usize) -> Self {
        Self { warm_up: (calls / 10).max(20_000), calls, window: None, bound: 50_000 }
    }
}

/// What a simulation has shown of the calls that count.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The mean latency of answered calls; infinite when the system is unstable.
    pub mean_ms: f64,
    /// The median latency; infinite when unstable.
    pub p50_ms: f64,
    /// The 99th percentile of the latency; infinite when unstable.
    pub p99_ms: f64,
    /// Calls answered a second.
    pub throughput: f64,
    /// Calls in a batch, on average over batches, warm-up included.
    pub mean_batch: f64,
    /// Calls that instances failed.
    pub failed: usize,
    /// Calls that were turned away.
    pub refused: usize,
    /// The mean latency by time of arrival in windows from the start, warm-up included; not a
    /// number where none was answered. Empty without [`Run::window`].
    pub series_ms: Vec<f64>,
    /// The latencies of answered calls in nanoseconds, in order of size.
    latencies: Vec<u64>,
    counted: usize,
}

impl Outcome {
    /// The latency in milliseconds that this share of the answered calls does not exceed.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        if self.mean_ms.is_infinite() {
            return f64::INFINITY;
        }
        let rank = (share * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).map_or(f64::NAN, |&nanos| nanos as f64 / 1e6)
    }

    /// The share of all calls that were answered within this latency; 0 when unstable.
    #[must_use]
    pub fn within(&self, deadline: Span) -> f64 {
        let timely = self.latencies.partition_point(|&latency| latency <= deadline.as_nanos());
        if self.mean_ms.is_infinite() { 0.0 } else { timely as f64 / self.counted.max(1) as f64 }
    }

    /// Whether the queue stayed within its bound.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.mean_ms.is_finite()
    }
}

/// Lets `arrivals` loose on `system` in front of `service`. Arrivals go on until every call that
/// counts is settled, so that the last ones meet the same load as the first.
///
/// # Panics
/// When the system wants to be woken in the past, names an instance that there is not, settles a
/// call twice, or stops though calls wait.
pub fn simulate(
    mut system: impl System,
    arrivals: impl IntoIterator<Item = Instant>,
    service: Service,
    run: Run,
) -> Outcome {
    let mut world = World::new(service, run);
    let mut arrivals = arrivals.into_iter().peekable();
    while world.settled < run.calls {
        let next = [arrivals.peek().copied(), world.next_done(), system.wake_at()];
        let Some(at) = next.into_iter().flatten().min() else {
            assert!(world.under_way == 0, "the system has stopped though calls wait");
            break;
        };
        world.now = world.now.max(at);
        while let Some((batch, succeeded)) = world.pop_done() {
            if !world.recalled.remove(&batch.token) {
                world.answer(&batch, succeeded);
            }
            system.done(world.now, batch, succeeded);
        }
        while arrivals.next_if(|&at| at <= world.now).is_some() {
            system.arrive(world.now, world.arrived.len());
            world.arrive();
        }
        while let Some(batch) = system.next(world.now) {
            world.send(batch);
        }
        while let Some(token) = system.recalled() {
            world.recalled.insert(token);
        }
        while let Some(refusal) = system.refused() {
            world.give_up(refusal.call, refusal.failed);
        }
        assert!(system.wake_at().is_none_or(|wake| wake > world.now), "the system would spin");
        if world.under_way > run.bound {
            return world.unstable();
        }
    }
    world.sum_up()
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    nanos: u64,
    calls: u64,
}

struct World {
    run: Run,
    service: Service,
    now: Instant,
    arrived: Vec<Instant>,
    /// Batches at instances by the time they are back, and where they are in `flying`.
    agenda: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    flying: Vec<Option<(Dispatch, bool)>>,
    vacant: Vec<usize>,
    /// Batches whose calls were called back.
    recalled: BTreeSet<u64>,
    /// When each instance has done all that it was sent.
    free_at: Vec<Instant>,
    batches: u64,
    rows: u64,
    under_way: usize,
    settled: usize,
    started: Option<Instant>,
    windows: Vec<Sum>,
    latencies: Vec<u64>,
    failed: usize,
    refused: usize,
}

impl World {
    fn new(service: Service, run: Run) -> Self {
        Self {
            now: Instant::default(),
            arrived: Vec::with_capacity(run.warm_up + run.calls),
            agenda: BinaryHeap::new(),
            flying: Vec::new(),
            vacant: Vec::new(),
            recalled: BTreeSet::new(),
            free_at: vec![Instant::default(); service.instances.len()],
            batches: 0,
            rows: 0,
            under_way: 0,
            settled: 0,
            started: None,
            windows: Vec::new(),
            latencies: Vec::with_capacity(run.calls),
            failed: 0,
            refused: 0,
            service,
            run,
        }
    }

    fn arrive(&mut self) {
        if self.arrived.len() == self.run.warm_up {
            self.started = Some(self.now);
        }
        self.arrived.push(self.now);
        self.under_way += 1;
    }

    fn send(&mut self, batch: Dispatch) {
        assert!(!batch.calls.is_empty(), "a batch without calls");
        let rows = batch.calls.len();
        let begins = (self.now + self.service.network).max(self.free_at[batch.instance]);
        let (took, succeeded) = self.service.serve(begins, batch.instance, rows);
        self.free_at[batch.instance] = begins + took;
        self.batches += 1;
        self.rows += rows as u64;
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.flying.push(None);
            self.flying.len() - 1
        });
        self.agenda.push(Reverse((begins + took + self.service.network, self.batches, place)));
        self.flying[place] = Some((batch, succeeded));
    }

    fn next_done(&self) -> Option<Instant> {
        self.agenda.peek().map(|Reverse((at, ..))| *at)
    }

    /// A batch that is back by now, and whether it succeeded.
    fn pop_done(&mut self) -> Option<(Dispatch, bool)> {
        self.next_done().filter(|&at| at <= self.now)?;
        let Reverse((_, _, place)) = self.agenda.pop()?;
        self.vacant.push(place);
        self.flying[place].take()
    }

    fn answer(&mut self, batch: &Dispatch, succeeded: bool) {
        if !succeeded {
            return;
        }
        for &call in &batch.calls {
            let arrived = self.arrived[call];
            let latency = self.now.since(arrived).as_nanos();
            if let Some(window) = self.run.window {
                let index = (arrived.as_nanos() / window.as_nanos()) as usize;
                if self.windows.len() <= index {
                    self.windows.resize(index + 1, Sum::default());
                }
                self.windows[index].nanos += latency;
                self.windows[index].calls += 1;
            }
            if self.settle(call) {
                self.latencies.push(latency);
            }
        }
    }

    fn give_up(&mut self, call: usize, failed: bool) {
        if self.settle(call) {
            self.failed += usize::from(failed);
            self.refused += usize::from(!failed);
        }
    }

    /// Takes note that a call has left; true when it counts.
    fn settle(&mut self, call: usize) -> bool {
        assert!(self.under_way > 0, "call {call} settled twice");
        self.under_way -= 1;
        let counts = (self.run.warm_up..self.run.warm_up + self.run.calls).contains(&call);
        self.settled += usize::from(counts);
        counts
    }

    fn unstable(self) -> Outcome {
        let infinite = f64::INFINITY;
        let mut outcome = self.sum_up();
        (outcome.mean_ms, outcome.p50_ms, outcome.p99_ms) = (infinite, infinite, infinite);
        outcome
    }

    fn sum_up(mut self) -> Outcome {
        self.latencies.sort_unstable();
        let answered = self.latencies.len() as f64;
        let elapsed = self.started.map_or(0.0, |started| ms(self.now.since(started)));
        let sum: f64 = self.latencies.iter().map(|&latency| latency as f64 / 1e6).sum();
        let mean = |sum: &Sum| sum.nanos as f64 / 1e6 / sum.calls as f64;
        let mut outcome = Outcome {
            mean_ms: sum / answered,
            throughput: answered * 1e3 / elapsed,
            mean_batch: self.rows as f64 / self.batches as f64,
            failed: self.failed,
            refused: self.refused,
            series_ms: self.windows.iter().map(mean).collect(),
            latencies: self.latencies,
            counted: self.settled,
            ..Outcome::default()
        };
        outcome.p50_ms = outcome.quantile_ms(0.5);
        outcome.p99_ms = outcome.quantile_ms(0.99);
        outcome
    }
}
