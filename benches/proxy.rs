//! End to end: load generator, proxy and model servers in processes of their own on the loopback.
//!
//! ```text
//! cargo bench --bench proxy -- saturation
//! cargo bench --bench proxy -- poisson --instances 4 --curve 2+0.1
//! cargo bench --bench proxy -- overhead --envoy PATH/TO/envoy --json
//! ```
//! Segments of load on the model server directly and on each proxy take turns in one run, so that
//! the machine's noise meets all of them. `CPU us` is the processor time of the proxy per call (of
//! the model server in lines named direct), `own us` that of the load generator. On a machine that
//! does other work, run the built program under `chrt --rr 1`: its processes inherit it, and waking
//! up late no longer hides what the proxy costs.

#[path = "support/mod.rs"]
pub mod support;

#[path = "../tests/support/model_server/mod.rs"]
pub mod model_server;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use model_server::ServiceTime;
use support::Failure;
use support::bounds::{Curve, LOADS, bound};
use support::caller::Protocol;
use support::load::Load;
use support::measured::Series;
use support::report::{Format, Ideal, Line};
use support::servers::{MODEL_SERVER_ROLE, serve_model};
use support::stage::{Setup, Stage, Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// More callers than a batch holds: how near to full batches without a pause.
    Saturation,
    /// Poisson arrivals at 10 to 90 % of the capacity: how near to the best batching policy.
    Poisson,
    /// A model that takes no time: what the path itself costs.
    Overhead,
    /// One after the other.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proxy {
    /// The proxy of this project.
    Batchwise,
    /// Envoy, in the scenario overhead and only with `--envoy`.
    Envoy,
    /// No proxy: the model server alone.
    Direct,
}

/// Measures the proxy end to end.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(value_enum, default_value = "all")]
    scenario: Scenario,
    /// One JSON object a line instead of tables.
    #[arg(long)]
    json: bool,
    /// What to put load on beside the model server itself, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "batchwise,envoy")]
    target: Vec<Proxy>,
    /// Seconds of load in one segment.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Segments on each target.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Callers of the scenario saturation.
    #[arg(long, default_value_t = 128)]
    callers: usize,
    /// Loads of the scenario poisson in percent of the capacity, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = LOADS)]
    loads: Vec<u32>,
    /// Calls a second of the scenario overhead.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Model servers behind the proxy.
    #[arg(long, default_value_t = 1)]
    instances: usize,
    /// The model's service time in milliseconds.
    #[arg(long, value_enum, default_value = "10+0.5")]
    curve: Curve,
    #[arg(long, value_enum, default_value = "grpc")]
    protocol: Protocol,
    /// Connections of the load generator to each target (gRPC).
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// FP32 columns of a call's one row.
    #[arg(long, default_value_t = 16)]
    columns: usize,
    /// A line for the model's table in models.toml, such as 'max_queue_delay = "0s"'.
    #[arg(long)]
    model_setting: Vec<String>,
    /// Envoy's program, to compare with.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2)]
    envoy_concurrency: u32,
    /// The seed of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    // One thread: cheap, and what it measures is not moved between processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(MODEL_SERVER_ROLE) {
        return runtime.block_on(serve_model(&arguments.collect::<Vec<_>>()));
    }
    let bench = Bench::new(Arguments::parse());
    runtime.block_on(bench.run())
}

struct Bench {
    arguments: Arguments,
    setup: Setup,
    format: Format,
    segment: Duration,
}

impl Bench {
    fn new(arguments: Arguments) -> Self {
        let workers = arguments.envoy_concurrency;
        let setup = Setup {
            protocol: arguments.protocol,
            connections: arguments.connections,
            columns: arguments.columns,
            model_settings: arguments.model_setting.clone(),
            envoy: arguments.envoy.clone().map(|program| (program, workers)),
        };
        let format = if arguments.json { Format::Json } else { Format::Table };
        let segment = Duration::try_from_secs_f64(arguments.seconds).unwrap_or(Duration::ZERO);
        Self { arguments, setup, format, segment }
    }

    async fn run(&self) -> Result<(), Failure> {
        let scenario = self.arguments.scenario;
        let wanted = |one| scenario == one || scenario == Scenario::All;
        if wanted(Scenario::Saturation) {
            self.saturation().await?;
        }
        if wanted(Scenario::Poisson) {
            self.poisson().await?;
        }
        if wanted(Scenario::Overhead) {
            self.overhead().await?;
        }
        Ok(())
    }

    async fn saturation(&self) -> Result<(), Failure> {
        let stage = self.stage_of_curve().await?;
        let capacity = self.capacity();
        let callers = self.arguments.callers;
        self.format.title(&format!("saturation: {callers} callers, one row a call"))?;
        let load = Load::Closed { callers };
        let targets = self.targets(&stage, false).await?;
        let measured = self.take_turns(&stage, &targets, load).await?;
        for (target, measured) in targets.iter().zip(&measured) {
            self.format.line(&Line {
                scenario: "saturation",
                target: target.name,
                load: format!("{callers} callers"),
                measured,
                direct: None,
                ideal: Ideal::Rate(capacity),
            })?;
        }
        Ok(())
    }

    async fn poisson(&self) -> Result<(), Failure> {
        let Arguments { curve, instances, .. } = self.arguments;
        let stage = self.stage_of_curve().await?;
        self.format.title(&format!(
            "poisson: {instances} x {:?} + {:?} a row, capacity {:.0}/s",
            curve.base(),
            curve.per_row(),
            self.capacity(),
        ))?;
        let targets = self.targets(&stage, false).await?;
        let alone = self.take_turns(&stage, &targets, Load::Closed { callers: 1 }).await?;
        let direct = alone.first();
        for (target, measured) in targets.iter().zip(&alone) {
            let direct = direct.filter(|direct| !std::ptr::eq(*direct, measured));
            let load = "one at a time".to_owned();
            let (scenario, target, ideal) = ("poisson", target.name, Ideal::None);
            self.format.line(&Line { scenario, target, load, measured, direct, ideal })?;
        }
        // One model server without batching is past its capacity at the least of the loads.
        for (target, alone) in targets.iter().zip(&alone).skip(1) {
            let path_ms = alone.pooled.quantile_ms(0.5) - curve.alone().as_secs_f64() * 1e3;
            for &percent in &self.arguments.loads {
                let rate = self.capacity() * f64::from(percent) / 100.0;
                let load = Load::Open { rate };
                let one = std::slice::from_ref(target);
                let all = self.take_turns(&stage, one, load).await?;
                let bound = bound(curve, instances, percent);
                let ideal = bound.map_or(Ideal::None, |bound| Ideal::Latency { bound, path_ms });
                for measured in &all {
                    let load = format!("{percent} %, {rate:.0}/s");
                    let (scenario, target) = ("poisson", target.name);
                    self.format.line(&Line {
                        scenario,
                        target,
                        load,
                        measured,
                        direct: None,
                        ideal,
                    })?;
                }
            }
        }
        Ok(())
    }

    async fn overhead(&self) -> Result<(), Failure> {
        let Arguments { rate, columns, instances, .. } = self.arguments;
        let stage =
            Stage::start(&self.setup, instances, ServiceTime::default(), MAX_BATCH_OF_NO_TIME);
        let stage = stage.await?;
        self.format.title(&format!("overhead: a model that takes no time, {columns} columns"))?;
        let targets = self.targets(&stage, true).await?;
        let loads = [
            (Load::Open { rate }, format!("poisson {rate:.0}/s")),
            (Load::Closed { callers: 1 }, "1 caller".to_owned()),
        ];
        for (load, text) in loads {
            let measured = self.take_turns(&stage, &targets, load).await?;
            let direct = measured.first();
            for (target, measured) in targets.iter().zip(&measured) {
                self.format.line(&Line {
                    scenario: "overhead",
                    target: target.name,
                    load: text.clone(),
                    measured,
                    direct: direct.filter(|direct| !std::ptr::eq(*direct, measured)),
                    ideal: Ideal::None,
                })?;
            }
        }
        Ok(())
    }

    fn capacity(&self) -> f64 {
        self.arguments.curve.capacity() * self.arguments.instances as f64
    }

    async fn stage_of_curve(&self) -> Result<Stage, Failure> {
        let Arguments { curve, instances, .. } = self.arguments;
        let service = ServiceTime::linear(curve.base(), curve.per_row());
        Stage::start(&self.setup, instances, service, curve.max_batch()).await
    }

    /// The model server itself comes first.
    async fn targets(&self, stage: &Stage, with_envoy: bool) -> Result<Vec<Target>, Failure> {
        let mut targets = vec![stage.direct().await?];
        let wanted = &self.arguments.target;
        if wanted.contains(&Proxy::Batchwise) {
            targets.push(stage.batchwise().await?);
        }
        if with_envoy && wanted.contains(&Proxy::Envoy) {
            targets.extend(stage.envoy().await?);
        }
        Ok(targets)
    }

    /// Rounds of one segment on each target; the first half segment is for warming up.
    async fn take_turns(
        &self,
        stage: &Stage,
        targets: &[Target],
        load: Load,
    ) -> Result<Vec<Series>, Failure> {
        let mut sums = Vec::with_capacity(targets.len());
        let seed = self.arguments.seed;
        for target in targets {
            stage.measure(target, load, self.segment / 2, seed).await?;
            sums.push(Series::new()?);
        }
        for round in 1..=self.arguments.rounds {
            // The same arrivals for all targets of a round.
            let seed = seed.wrapping_add(u64::from(round) << 32);
            for (target, sum) in targets.iter().zip(&mut sums) {
                sum.push(stage.measure(target, load, self.segment, seed).await?)?;
            }
        }
        Ok(sums)
    }
}

/// The largest batch of the model that takes no time.
const MAX_BATCH_OF_NO_TIME: u32 = 32;
