//! The best that a search with full knowledge finds for any number of instances.
//!
//! Nobody has the exact optimum for several instances: its state holds every remaining time. But
//! the balance rule told the rate and the curve comes within a per cent or two of the dynamic
//! program, and a search over its parameters, sizes and plain delays, all on the same arrivals,
//! gives a yardstick for any curve, for the mean and for the 99th percentile apart.

use batchwise::lane::Instant;

use super::optimum::optimum;
use super::reference::{Central, FixedDelay, Threshold};
use super::run::{Outcome, Run, simulate};
use super::service::{Curve, Service};
use super::span_from_ms;

/// What [`Threshold::factor`] is tried with; 0 is greedy.
const FACTORS: [f64; 8] = [0.0, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4];
/// What [`Threshold::offset`] is tried with.
const OFFSETS: [f64; 4] = [0.0, 0.5, 1.0, 2.0];
/// Fixed delays to try, as shares of the time of one row.
const DELAYS: [f64; 7] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0];
/// The settings of the coarse search that are looked at again with all calls.
const FINALISTS: usize = 5;

/// A policy with full knowledge and all its parameters.
#[derive(Clone, Debug)]
pub enum Setting {
    /// The balance rule.
    Balance(Threshold),
    /// A fixed delay.
    Delay(FixedDelay),
}

impl Setting {
    /// Simulates it.
    pub fn run(
        &self,
        arrivals: impl IntoIterator<Item = Instant>,
        service: Service,
        run: Run,
    ) -> Outcome {
        let instances = service.instances.len();
        match self {
            Self::Balance(rule) => {
                simulate(Central::new(rule.clone(), instances), arrivals, service, run)
            }
            Self::Delay(rule) => simulate(Central::new(*rule, instances), arrivals, service, run),
        }
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Balance(rule) => {
                let sizes = if rule.sizes.is_empty() { "" } else { ", solved sizes" };
                let Threshold { factor, offset, cap, .. } = rule;
                write!(formatter, "balance x{factor} +{offset} up to {cap}{sizes}")
            }
            Self::Delay(rule) => {
                write!(formatter, "delay {:.2} up to {}", super::ms(rule.delay), rule.largest)
            }
        }
    }
}

/// The least mean and the least 99th percentile, each with who has it.
#[derive(Clone, Debug)]
pub struct Best {
    /// The least mean latency.
    pub mean_ms: f64,
    /// Who has that.
    pub mean_by: Setting,
    /// The least 99th percentile.
    pub p99_ms: f64,
    /// Who has that.
    pub p99_by: Setting,
}

/// Batch sizes worth stopping at: the largest one, and those after which a row more pays less
/// than it did before: the end of a padded block, a knee, the edge of a cliff.
#[must_use]
pub fn caps(curve: &Curve) -> Vec<usize> {
    let efficiency = |rows: usize| rows as f64 / curve.time_ms(rows);
    let peak = |&rows: &usize| {
        rows == curve.largest()
            || rows > 1 && efficiency(rows) > efficiency(rows - 1).max(efficiency(rows + 1))
    };
    (1..=curve.largest()).filter(peak).collect()
}

/// Everything that the search looks at, for `rate` calls a millisecond on average.
#[must_use]
pub fn settings(curve: &Curve, instances: usize, rate: f64) -> Vec<Setting> {
    let mut settings = Vec::new();
    let caps = caps(curve);
    // The efficient ones; batches much smaller than those cannot bear a high load.
    let solved = optimum(curve, curve.largest(), rate / instances as f64).sizes;
    let mut sizes = vec![(curve.largest(), solved)];
    sizes.extend(caps.iter().rev().take(4).map(|&cap| (cap, Vec::new())));
    let alone = instances == 1;
    for (cap, sizes) in sizes {
        for &factor in FACTORS.iter().take(if alone { 1 } else { FACTORS.len() }) {
            for &offset in OFFSETS.iter().take(if factor == 0.0 { 1 } else { OFFSETS.len() }) {
                let (curve, sizes) = (curve.clone(), sizes.clone());
                let rule = Threshold { rate, curve, factor, offset, cap, sizes };
                settings.push(Setting::Balance(rule));
            }
        }
        for share in DELAYS {
            let delay = span_from_ms(share * curve.time_ms(1));
            settings.push(Setting::Delay(FixedDelay { delay, largest: cap }));
        }
    }
    settings
}

/// The least mean of greedy late binding and of the balance rule, each under every cap worth
/// stopping at and with the sizes that the exact solution for one instance takes; and who has it.
/// A search of a moment, for `arrivals` of `rate` calls a millisecond on average.
#[must_use]
pub fn best_sizes<A>(service: &Service, arrivals: &A, rate: f64, run: Run) -> Option<(f64, Setting)>
where
    A: IntoIterator<Item = Instant> + Clone,
{
    let (curve, instances) = (&service.curve, service.instances.len());
    let solved = optimum(curve, curve.largest(), rate / instances as f64).sizes;
    let capped = caps(curve).into_iter().map(|cap| (cap, Vec::new()));
    let sizes = capped.chain([(curve.largest(), solved)]);
    // One instance has nobody to be out of step with.
    let factors: &[f64] = if instances == 1 { &[0.0] } else { &[0.0, 1.0] };
    let settings = sizes.flat_map(|(cap, sizes)| {
        factors.iter().map(move |&factor| {
            let rule = Threshold::new(rate, curve.clone());
            Setting::Balance(Threshold { cap, factor, sizes: sizes.clone(), ..rule })
        })
    });
    settings
        .map(|setting| (setting.run(arrivals.clone(), service.clone(), run).mean_ms, setting))
        .min_by(|a, b| a.0.total_cmp(&b.0))
}

/// Searches for the least mean and the least 99th percentile before `service`, for `arrivals`
/// of `rate` calls a millisecond on average; `None` only without calls.
#[must_use]
pub fn best_known<A>(service: &Service, arrivals: &A, rate: f64, run: Run) -> Option<Best>
where
    A: IntoIterator<Item = Instant> + Clone,
{
    let settings = settings(&service.curve, service.instances.len(), rate);
    let coarse = Run { warm_up: run.warm_up / 4, calls: run.calls / 8, ..run };
    let try_out = |setting: Setting, run: Run| {
        let outcome = setting.run(arrivals.clone(), service.clone(), run);
        (outcome.mean_ms, outcome.p99_ms, setting)
    };
    let mut tried: Vec<_> = settings.into_iter().map(|setting| try_out(setting, coarse)).collect();
    tried.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut finalists: Vec<_> = tried.iter().take(FINALISTS).map(|one| one.2.clone()).collect();
    tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    finalists.extend(tried.into_iter().take(FINALISTS).map(|one| one.2));
    let results: Vec<_> = finalists.into_iter().map(|one| try_out(one, run)).collect();
    let least =
        |key: fn(&Tried) -> f64| results.iter().min_by(|a, b| key(a).total_cmp(&key(b))).cloned();
    let by_mean = least(|one| one.0)?;
    let by_p99 = least(|one| one.1)?;
    Some(Best { mean_ms: by_mean.0, mean_by: by_mean.2, p99_ms: by_p99.1, p99_by: by_p99.2 })
}

/// A mean and a 99th percentile in milliseconds, and whose they are.
type Tried = (f64, f64, Setting);
