//! The batching policy that ships against those that others run and against the best there is, in
//! simulated time: queueing and service, no network, no proxy.
//!
//! ```text
//! cargo bench --bench simulator
//! cargo bench --bench simulator -- --curve 10+0.5,knee-16 --instances 4 --loads 30,70
//! cargo bench --bench simulator -- --arrivals on-off --noise 0.1 --calls 1000000
//! cargo bench --bench simulator -- --scenario disturbances
//! ```
//! Each cell has the mean and the 99th percentile in milliseconds, and both as ratios to the best
//! that is known: the least of a search with full knowledge on the very same arrivals, and of the
//! dynamic program where its result is on record. `exact` is the least mean that any policy can have
//! in the long run with one instance and Poisson arrivals; a sample may lie a little below it.
//!
//! The disturbances are what goes wrong in mid-run: the mean latency before, at its worst and at its
//! new level, how long it took to be there, and the calls that had no answer. Where one of four
//! instances is bad, the load is that of the other three.

#[path = "../tests/support/simulator/mod.rs"]
pub mod simulator;

use std::io::Write as _;

use clap::Parser;

use simulator::disturbances::disturbances;
use simulator::known::known;
use simulator::lane::{Shipped, plan, shipped};
use simulator::optimum::optimum;
use simulator::reference::{Additive, Agent, Central, FixedDelay, Routed, Router, Threshold};
use simulator::search::best_known;
use simulator::service::CURVES;
use simulator::{Arrivals, Curve, Outcome, Process, Run, Service, System};
use simulator::{ms, simulate, span_from_ms};

/// Simulates batching policies.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// Service times, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "10+0.5,2+0.1", value_parser = CURVES)]
    curve: Vec<String>,
    /// Numbers of instances, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    instances: Vec<usize>,
    /// Loads in percent of the capacity, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "10,30,50,70,90")]
    loads: Vec<u32>,
    /// What to show: policies at steady loads, or the shipped one when something changes.
    #[arg(long, default_value = "steady", value_parser = ["steady", "disturbances"])]
    scenario: String,
    /// How calls arrive.
    #[arg(long, default_value = "poisson", value_parser = Process::NAMES)]
    arrivals: String,
    /// Calls that are counted in each simulation.
    #[arg(long, default_value_t = 400_000)]
    calls: usize,
    /// The coefficient of variation of noise on service times.
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// Only policies whose name contains this.
    #[arg(long, default_value = "")]
    policy: String,
    /// Whether the shipped policy is to learn the largest batch by itself.
    #[arg(long)]
    untold: bool,
    /// The seed of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The policies in the order of the table.
const POLICIES: [&str; 15] = [
    "batchwise",
    "greedy",
    "delay 1 ms",
    "delay 2 ms",
    "delay 5 ms",
    "delay 10 ms",
    "balance, all known",
    "agent 5 ms",
    "additive cap 40 ms",
    "round robin",
    "two choices",
    "shortest queue",
    "random",
    "agent, two choices",
    "no batching",
];

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    if arguments.scenario == "disturbances" {
        return print_disturbances();
    }
    for name in &arguments.curve {
        // The names were checked when the arguments were read.
        let Some(curve) = Curve::named(name) else { continue };
        for &instances in &arguments.instances {
            let table = Table { arguments: &arguments, curve: &curve, instances };
            let columns = table.columns();
            table.print(name, &columns)?;
        }
    }
    Ok(())
}

/// Simulations of each disturbance.
const SEEDS: u64 = 16;

fn print_disturbances() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "10 + 0.5 n up to 32, shipped policy, {SEEDS} seeds; means in ms, by arrival")?;
    write!(out, "{:64}{:>8}{:>8}{:>8}", "disturbance", "before", "peak", "after")?;
    writeln!(out, "{:>22}{:>20}", "s to within 10 %", "calls lost")?;
    for disturbance in disturbances() {
        let recovery = disturbance.run(SEEDS);
        write!(out, "{:64}{:>8}", disturbance.name, figure(recovery.before_ms))?;
        write!(out, "{:>8}{:>8}", figure(recovery.peak_ms), figure(recovery.after_ms))?;
        let lost = format!("{} of {}", recovery.lost, recovery.calls);
        writeln!(out, "{:>22.2}{lost:>20}", ms(recovery.back_after) / 1e3)?;
    }
    Ok(())
}

/// Milliseconds; nothing where there is no such time.
fn figure(value_ms: f64) -> String {
    if value_ms.is_nan() { String::new() } else { format!("{value_ms:.1}") }
}

/// All policies and loads of one curve and number of instances.
struct Table<'a> {
    arguments: &'a Arguments,
    curve: &'a Curve,
    instances: usize,
}

/// What came of one load: mean and 99th percentile in milliseconds.
struct Column {
    best: (f64, f64),
    exact_ms: Option<f64>,
    /// By policy, where that was simulated.
    policies: Vec<Option<(f64, f64)>>,
}

impl Table<'_> {
    /// Each load on a thread of its own: they share nothing.
    fn columns(&self) -> Vec<Column> {
        std::thread::scope(|scope| {
            let column = |load| scope.spawn(move || self.column(load));
            let threads: Vec<_> = self.arguments.loads.iter().copied().map(column).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        })
    }

    fn column(&self, load: u32) -> Column {
        let rate = f64::from(load) / 100.0 * self.service().capacity();
        let process = Process::named(&self.arguments.arrivals).unwrap_or(Process::Poisson);
        let plain = process == Process::Poisson && self.arguments.noise == 0.0;
        let arrivals = Arrivals::new(process, rate, self.arguments.seed);
        let run = Run::of(self.arguments.calls);
        let best = best_known(&self.service(), &arrivals, rate, run);
        let mut best = best.map_or((f64::NAN, f64::NAN), |best| (best.mean_ms, best.p99_ms));
        // With one instance the search has the optimal policy itself, on these very arrivals.
        if plain && self.instances > 1 {
            let known = known(self.curve, self.instances);
            for point in known.iter().filter(|point| point.load == load) {
                best = (best.0.min(point.mean_ms), best.1.min(point.p99_ms));
            }
        }
        let exact = || optimum(self.curve, self.curve.largest(), rate).mean_ms;
        let policies = POLICIES.iter().map(|policy| {
            let wanted = policy.contains(&self.arguments.policy);
            let outcome = wanted.then(|| self.simulate(policy, &arrivals, rate, run))?;
            Some((outcome.mean_ms, outcome.p99_ms))
        });
        Column {
            best,
            exact_ms: (plain && self.instances == 1).then(exact),
            policies: policies.collect(),
        }
    }

    fn service(&self) -> Service {
        let seed = self.arguments.seed;
        let service = Service::new(self.curve.clone(), self.instances);
        service.with_noise(self.arguments.noise).with_seed(seed)
    }

    fn simulate(&self, policy: &str, arrivals: &Arrivals, rate: f64, run: Run) -> Outcome {
        let system = self.system(policy, rate);
        simulate(system, arrivals.clone(), self.service(), run)
    }

    fn system(&self, policy: &str, rate: f64) -> Box<dyn System> {
        let (count, largest) = (self.instances, self.curve.largest());
        let greedy = FixedDelay::greedy(largest);
        let agent = Agent { delay: span_from_ms(5.0), largest };
        let delayed = |delay_ms: f64| {
            Box::new(Central::new(FixedDelay { delay: span_from_ms(delay_ms), largest }, count))
        };
        match policy {
            "batchwise" => {
                let told = (!self.arguments.untold).then_some(largest);
                Box::new(Shipped::new(plan(count, told), shipped(count)))
            }
            "delay 1 ms" => delayed(1.0),
            "delay 2 ms" => delayed(2.0),
            "delay 5 ms" => delayed(5.0),
            "delay 10 ms" => delayed(10.0),
            "balance, all known" => {
                Box::new(Central::new(Threshold::new(rate, self.curve.clone()), count))
            }
            "agent 5 ms" => Box::new(Routed::new(Router::RoundRobin, agent, count)),
            "agent, two choices" => Box::new(Routed::new(Router::TwoChoices, agent, count)),
            "additive cap 40 ms" => {
                Box::new(Central::new(Additive::new(span_from_ms(40.0), largest), count))
            }
            "round robin" => Box::new(Routed::new(Router::RoundRobin, greedy, count)),
            "two choices" => Box::new(Routed::new(Router::TwoChoices, greedy, count)),
            "shortest queue" => Box::new(Routed::new(Router::ShortestQueue, greedy, count)),
            "random" => Box::new(Routed::new(Router::Random, greedy, count)),
            "no batching" => Box::new(Central::new(FixedDelay::no_batching(), count)),
            _ => Box::new(Central::new(greedy, count)),
        }
    }

    fn print(&self, name: &str, columns: &[Column]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        let Arguments { arrivals, loads, noise, .. } = self.arguments;
        let capacity = self.service().capacity() * 1e3;
        let (count, largest) = (self.instances, self.curve.largest());
        writeln!(out, "\n{name} up to {largest}, instances: {count}, arrivals: {arrivals}")?;
        writeln!(
            out,
            "capacity {capacity:.0}/s, noise {noise}; mean / p99 in ms, ratios to the best"
        )?;
        write!(out, "{:20}", "load")?;
        for load in loads {
            write!(out, "{:>28}", format!("{load} %"))?;
        }
        write!(out, "\n{:20}", "best known")?;
        for column in columns {
            write!(out, "{:>28}", pair(column.best))?;
        }
        if columns.iter().any(|column| column.exact_ms.is_some()) {
            write!(out, "\n{:20}", "exact")?;
            for mean_ms in columns.iter().map(|column| column.exact_ms.unwrap_or(f64::NAN)) {
                write!(out, "{:>28}", format!("{mean_ms:.2}        "))?;
            }
        }
        for (index, policy) in POLICIES.iter().enumerate() {
            let cells: Vec<_> = columns
                .iter()
                .filter_map(|column| Some((column, column.policies[index]?)))
                .collect();
            if cells.is_empty() {
                continue;
            }
            write!(out, "\n{policy:20}")?;
            for (Column { best, .. }, (mean_ms, p99_ms)) in cells {
                let ratios = format!("{:5.2} {:5.2}", mean_ms / best.0, p99_ms / best.1);
                write!(out, "{:>28}", format!("{} {ratios}", pair((mean_ms, p99_ms))))?;
            }
        }
        writeln!(out)
    }
}

/// A mean and a 99th percentile; a queue without end has neither.
fn pair((mean_ms, p99_ms): (f64, f64)) -> String {
    if mean_ms.is_infinite() {
        return "unstable".to_owned();
    }
    format!("{mean_ms:6.2} / {p99_ms:6.2}")
}
