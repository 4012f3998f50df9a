//! What goes wrong in mid-run, and how soon the shipped policy is back.
//!
//! Each disturbance is simulated several times with other seeds, and the mean latency by time of
//! arrival is averaged over them, so that a window of a quarter of a second says something.

use batchwise::lane::{Blame, Instant, Span};

use super::arrivals::{Arrivals, Process};
use super::lane::{Shipped, plan, shipped};
use super::run::{Run, simulate};
use super::service::{Curve, Instance, Service};
use super::{ms, span_from_ms};

/// The length of a window of the series.
const WINDOW: Span = Span::from_millis(250);
/// What comes before this meets a policy that has learned too little to be a level.
const LEARNED: Instant = Instant::from_nanos(3_000_000_000);
/// The start of a simulation.
const START: Instant = Instant::from_nanos(0);
/// When the disturbance happens, unless it is there from the start.
const HAPPENS: Instant = Instant::from_nanos(8_000_000_000);
/// Back means within such a share of the new level.
const BACK: f64 = 1.1;

/// Something that happens to a lane that runs: a change of the instances or of the arrivals.
#[derive(Clone, Debug)]
pub struct Disturbance {
    /// What happens, for people.
    pub name: String,
    /// The instances, with what becomes of them.
    pub service: Service,
    /// How calls come, with what becomes of that.
    pub process: Process,
    /// Calls a millisecond at the start.
    pub rate: f64,
    /// The largest batch, where the lane is told.
    pub told: Option<usize>,
    /// What a failed batch is called.
    pub blame: Blame,
    /// When it happens.
    pub at: Instant,
    /// How long it is watched from then on.
    pub watched: Span,
}

/// What came of a disturbance; means over windows and seeds.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The mean latency before, once things were learned; not a number where it is there from the
    /// start.
    pub before_ms: f64,
    /// The largest mean of a window afterwards.
    pub peak_ms: f64,
    /// The mean over the last third of the time watched: the new level, if there is one.
    pub after_ms: f64,
    /// The time from the disturbance until the mean stays within 10 % of the new level.
    pub back_after: Span,
    /// Calls that had no answer, of all seeds.
    pub lost: usize,
    /// All calls of all seeds.
    pub calls: usize,
    /// The mean latency by time of arrival, in windows from the start.
    series_ms: Vec<f64>,
    at: Instant,
}

impl Recovery {
    /// The mean latency of the calls that came between two times after the disturbance.
    #[must_use]
    pub fn mean_between(&self, from: Span, to: Span) -> f64 {
        mean(&self.series_ms, self.at + from, self.at + to)
    }
}

impl Disturbance {
    /// A steady system: `load` of what `instances` of `curve` can do.
    fn steady(curve: &Curve, instances: usize, load: f64) -> Self {
        let service = Service::new(curve.clone(), instances);
        Self {
            name: String::new(),
            process: Process::Poisson,
            rate: load * service.capacity(),
            told: Some(curve.largest()),
            blame: Blame::Broken,
            at: HAPPENS,
            watched: Span::from_secs(6),
            service,
        }
    }

    fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Every batch takes `factor` times as long: the load, `load` before, grows as much.
    #[must_use]
    pub fn slowdown(instances: usize, load: f64, factor: f64) -> Self {
        let mut steady = Self::steady(&usual(), instances, load);
        steady.service.change = Some((HAPPENS, usual().times(factor)));
        steady.named(title(instances, load, &format!("batches take {factor} x as long")))
    }

    /// `factor` times as many calls come.
    #[must_use]
    pub fn surge(instances: usize, load: f64, factor: f64) -> Self {
        let steady = Self::steady(&usual(), instances, load);
        let process = Process::Jump { at_ms: ms(HAPPENS.since(START)), factor };
        let name = title(instances, load, &format!("{factor} x as many calls"));
        Self { process, ..steady }.named(name)
    }

    /// A limit of the memory shows: batches above 12 rows take 2.5 times as long.
    #[must_use]
    pub fn cliff(instances: usize, load: f64) -> Self {
        let mut steady = Self::steady(&usual(), instances, load);
        steady.service.change = Some((HAPPENS, usual().cliff(12, 2.5)));
        let name = title(instances, load, "batches above 12 rows take 2.5 x");
        Self { watched: Span::from_secs(20), ..steady }.named(name)
    }

    /// The last of the instances becomes another; `load` is of what the others can do.
    fn turn(instances: usize, load: f64, nature: Instance) -> Self {
        let mut steady = Self::steady(&usual(), instances, load);
        steady.rate *= (instances - 1) as f64 / instances as f64;
        steady.service.turn = Some((HAPPENS, instances - 1, nature));
        steady
    }

    /// One instance becomes so many times as slow.
    #[must_use]
    pub fn slow_instance(instances: usize, load: f64, slowness: f64) -> Self {
        let nature = Instance { slowness, ..Instance::USUAL };
        let name = title(instances, load, &format!("one becomes {slowness} x as slow"));
        Self::turn(instances, load, nature).named(name)
    }

    /// One instance answers everything with an error, in a millisecond.
    #[must_use]
    pub fn failing_instance(instances: usize, load: f64, blame: Blame) -> Self {
        let nature = Instance { errors_after: Some(span_from_ms(1.0)), ..Instance::USUAL };
        let name = title(instances, load, &format!("one fails all, {blame:?}"));
        Self { blame, ..Self::turn(instances, load, nature) }.named(name)
    }

    /// Batches of more than `rows` fail, and nobody has said so; or the lane is `told` too much.
    #[must_use]
    pub fn size_limit(instances: usize, load: f64, rows: usize, told: Option<usize>) -> Self {
        let mut steady = Self::steady(&usual(), instances, load);
        steady.service.fails_above = Some(rows);
        let said = told.map_or("untold".to_owned(), |told| format!("told {told}"));
        let name = title(instances, load, &format!("batches above {rows} fail, {said}"));
        Self { told, at: START, ..steady }.named(name)
    }

    /// The same from the start.
    #[must_use]
    pub fn from_the_start(mut self) -> Self {
        self.at = START;
        self.name.push_str(", from the start");
        self.service.turn = self.service.turn.map(|(_, index, nature)| (START, index, nature));
        self.service.change = self.service.change.map(|(_, curve)| (START, curve));
        self
    }

    /// The shipped policy in front of it.
    #[must_use]
    pub fn system(&self) -> Shipped {
        let instances = self.service.instances.len();
        Shipped::new(plan(instances, self.told), shipped(instances)).with_blame(self.blame)
    }

    /// Simulates it once for each of the seeds 1 to `seeds`.
    #[must_use]
    pub fn run(&self, seeds: u64) -> Recovery {
        self.run_seeds(1..=seeds)
    }

    /// Simulates it once for each of these seeds.
    #[must_use]
    pub fn run_seeds(&self, seeds: impl IntoIterator<Item = u64>) -> Recovery {
        let later = match self.process {
            Process::Jump { factor, .. } => factor,
            _ => 1.0,
        };
        let calls = (self.rate * (ms(self.at.since(START)) + later * ms(self.watched))) as usize;
        let run = Run { warm_up: 0, calls, window: Some(WINDOW), bound: 50_000 };
        let outcomes: Vec<_> = seeds
            .into_iter()
            .map(|seed| {
                let arrivals = Arrivals::new(self.process.clone(), self.rate, seed);
                simulate(self.system(), arrivals, self.service.clone().with_seed(seed), run)
            })
            .collect();
        let windows = index(self.at + self.watched);
        let average = |window: usize| {
            let means = outcomes.iter().filter_map(|outcome| outcome.series_ms.get(window));
            let means: Vec<f64> = means.copied().filter(|mean| mean.is_finite()).collect();
            means.iter().sum::<f64>() / means.len() as f64
        };
        let series_ms: Vec<f64> = (0..windows).map(average).collect();
        let lost = outcomes.iter().map(|outcome| outcome.failed + outcome.refused).sum();
        self.recovery(series_ms, lost, calls * outcomes.len())
    }

    fn recovery(&self, series_ms: Vec<f64>, lost: usize, calls: usize) -> Recovery {
        let end = self.at + self.watched;
        let settled = self.at + Span::from_nanos(self.watched.as_nanos() / 3 * 2);
        let after_ms = mean(&series_ms, settled, end);
        let afterwards = &series_ms[index(self.at)..];
        let last_off = afterwards.iter().rposition(|&mean| mean > BACK * after_ms);
        Recovery {
            before_ms: mean(&series_ms, LEARNED, self.at),
            peak_ms: afterwards.iter().copied().fold(0.0, f64::max),
            after_ms,
            back_after: Span::from_nanos(
                WINDOW.as_nanos() * last_off.map_or(0, |last| last as u64 + 1),
            ),
            lost,
            calls,
            series_ms,
            at: self.at,
        }
    }
}

/// The disturbances that a report shows.
#[must_use]
pub fn disturbances() -> Vec<Disturbance> {
    let mut all = Vec::new();
    for instances in [1, 4] {
        all.push(Disturbance::slowdown(instances, 0.35, 2.0));
        all.push(Disturbance::slowdown(instances, 0.7, 0.5));
        all.push(Disturbance::surge(instances, 0.05, 10.0));
        all.push(Disturbance::cliff(instances, 0.55));
        all.push(Disturbance::size_limit(instances, 0.6, 20, None));
        all.push(Disturbance::size_limit(instances, 0.6, 20, Some(32)));
        all.push(Disturbance::size_limit(instances, 0.7, 32, None));
    }
    for slowness in [4.0, 5.0] {
        let slow = Disturbance::slow_instance(4, 0.7, slowness);
        all.extend([slow.clone(), slow.from_the_start()]);
    }
    for blame in [Blame::Connection, Blame::Broken] {
        let failing = Disturbance::failing_instance(4, 0.7, blame);
        all.extend([failing.clone(), failing.from_the_start()]);
    }
    all
}

fn title(instances: usize, load: f64, what: &str) -> String {
    let plural = if instances == 1 { "" } else { "s" };
    format!("{instances} instance{plural} at {:.0} %: {what}", 100.0 * load)
}

/// 10 + 0.5 n, up to 32 rows.
fn usual() -> Curve {
    Curve::linear(10.0, 0.5, 32)
}

fn index(at: Instant) -> usize {
    (at.as_nanos() / WINDOW.as_nanos()) as usize
}

fn mean(series_ms: &[f64], from: Instant, to: Instant) -> f64 {
    let windows = series_ms.get(index(from)..index(to)).unwrap_or_default();
    windows.iter().sum::<f64>() / windows.len() as f64
}
