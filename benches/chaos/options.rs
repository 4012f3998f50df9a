//! The command line, and what of it all scenarios share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::model_server::{ServiceTime, Settings};

/// Rows in the largest batch of a model server.
pub(crate) const MAX_BATCH: u32 = 32;
const BASE: Duration = Duration::from_millis(10);
const PER_ROW: Duration = Duration::from_micros(500);
const FLAT_BASE: Duration = Duration::from_millis(30);
const FLAT_PER_ROW: Duration = Duration::from_micros(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One of two model servers stands still for 5 s (SIGSTOP).
    Frozen,
    /// One of two model servers answers no inference for 5 s; its health stays green.
    Hanging,
    /// Of three model servers, one after the other is killed, frozen, resets, garbles and fails.
    Trio,
    /// Every model server fails every call for 10 s.
    AllFail,
    /// One call in a thousand makes its whole batch fail.
    Poison,
    /// 31 good calls and a poisonous one in the same batch, time and again.
    PoisonBatch,
    /// Now and then a call makes the process of its model server exit.
    Killer,
    /// Five times more calls than four model servers can answer.
    Overload,
    /// The same where a full batch takes hardly longer than a call alone.
    OverloadFlat,
    /// 10 000 callers go away at a random time.
    Cancels,
    /// Two proxies behind a balancer are restarted in turn.
    Rolling,
    /// The configuration changes once a second.
    Reload,
    /// 1 % of the packets get lost, and for 8 s all of one of three model servers (Linux).
    Lossy,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Hanging => "hanging",
            Self::Trio => "trio",
            Self::AllFail => "all-fail",
            Self::Poison => "poison",
            Self::PoisonBatch => "poison-batch",
            Self::Killer => "killer",
            Self::Overload => "overload",
            Self::OverloadFlat => "overload-flat",
            Self::Cancels => "cancels",
            Self::Rolling => "rolling",
            Self::Reload => "reload",
            Self::Lossy => "lossy",
        }
    }
}

/// Shows what the proxy does on a bad day; exits with 1 when it breaks a bound.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// All of them, when none is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Seconds of load in each scenario, instead of each one's own.
    #[arg(long)]
    seconds: Option<f64>,
    /// Makes the model servers this many times slower, and load that goes by their capacity
    /// lighter; 1 unless a scenario needs more.
    #[arg(long)]
    scale: Option<f64>,
    /// The seed of arrivals and of what is random besides.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A line for the model's table in models.toml, such as 'max_queue_delay = "0s"'.
    #[arg(long)]
    pub(crate) model_setting: Vec<String>,
    /// Another program than the one that was built with this.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_batchwise"))]
    pub(crate) batchwise: PathBuf,
    /// Puts slow and lossy links between the proxy and the model servers: 2 ms each way, 0.2 % of
    /// it 200 ms later. `rolling` has none.
    #[arg(long)]
    pub(crate) network: bool,
    /// One JSON object for each scenario instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        match self.scenarios.as_slice() {
            [] => Scenario::value_variants().to_vec(),
            named => named.to_vec(),
        }
    }

    /// How long load lasts: what the user says, else what suits the scenario.
    pub(crate) fn length(&self, suits: u64) -> Duration {
        let asked = self.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        asked.unwrap_or(Duration::from_secs(suits))
    }

    /// The model servers and how fast they are; `suits` is the scale of the scenario.
    pub(crate) fn model(&self, suits: f64) -> Model {
        Model { base: BASE, per_row: PER_ROW, scale: self.scale.unwrap_or(suits) }
    }

    /// The same, with batches that take hardly longer than a row.
    pub(crate) fn flat_model(&self, suits: f64) -> Model {
        Model { base: FLAT_BASE, per_row: FLAT_PER_ROW, ..self.model(suits) }
    }
}

/// What the model servers of a scenario are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    base: Duration,
    per_row: Duration,
    pub(crate) scale: f64,
}

impl Model {
    /// Settings to begin with.
    pub(crate) fn settings(self) -> Settings {
        let [base, per_row] = [self.base, self.per_row].map(|time| time.mul_f64(self.scale));
        let service = ServiceTime::linear(base, per_row);
        Settings { service, max_batch_size: MAX_BATCH, record: 0, ..Settings::default() }
    }

    /// The time of a batch of so many rows.
    pub(crate) fn batch(self, rows: f64) -> Duration {
        (self.base + self.per_row.mul_f64(rows)).mul_f64(self.scale)
    }

    /// The time of a full batch.
    pub(crate) fn full_batch(self) -> Duration {
        self.batch(f64::from(MAX_BATCH))
    }

    /// The rows of batches that have this share of the capacity.
    pub(crate) fn rows_for(self, share: f64) -> f64 {
        let throughput = share * f64::from(MAX_BATCH) / self.full_batch().as_secs_f64();
        let [base, per_row] = [self.base, self.per_row].map(|time| time.as_secs_f64() * self.scale);
        throughput * base / (1.0 - throughput * per_row)
    }

    /// Rows a second that so many can do, batches full.
    pub(crate) fn capacity(self, instances: usize) -> f64 {
        f64::from(MAX_BATCH) / self.full_batch().as_secs_f64() * instances as f64
    }

    /// What there is, in words.
    pub(crate) fn describe(self, instances: usize) -> String {
        let ms = |time: Duration| time.mul_f64(self.scale).as_secs_f64() * 1e3;
        format!("{instances} x {} + {} ms a row", ms(self.base), ms(self.per_row))
    }
}
