//! What a run of load found out.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::Failure;

/// Three significant figures are well below the noise of any run.
const SIGNIFICANT_FIGURES: u8 = 3;

/// No call takes longer than a minute: it is given up before.
const LONGEST_NANOSECONDS: u64 = 60_000_000_000;

/// Latencies and counts of one or more runs against the same target.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Latencies of the good calls in nanoseconds.
    latencies: Histogram<u64>,
    /// Calls that failed or were answered wrongly.
    pub failed: u64,
    /// The first failure, in words.
    pub first_failure: Option<String>,
    /// How long calls were sent.
    pub elapsed: Duration,
    /// Processor time of the proxy under test (of the model server, where there is no proxy).
    pub processor: Duration,
    /// Processor time of the load generator.
    pub own_processor: Duration,
    /// Batches and rows that the model servers executed.
    pub batches: Batches,
}

/// What the model servers executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// Batches.
    pub executions: u64,
    /// Their rows.
    pub rows: u64,
}

impl Measured {
    /// Nothing yet.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self {
            latencies: Histogram::new_with_bounds(1, LONGEST_NANOSECONDS, SIGNIFICANT_FIGURES)?,
            failed: 0,
            first_failure: None,
            elapsed: Duration::ZERO,
            processor: Duration::ZERO,
            own_processor: Duration::ZERO,
            batches: Batches::default(),
        })
    }

    /// Counts one call.
    pub fn record(&mut self, latency: Duration, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(nanoseconds);
            }
            Err(reason) => {
                self.failed += 1;
                self.first_failure.get_or_insert(reason);
            }
        }
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.latencies.add(&other.latencies)?;
        self.failed += other.failed;
        self.elapsed += other.elapsed;
        self.processor += other.processor;
        self.own_processor += other.own_processor;
        self.batches.executions += other.batches.executions;
        self.batches.rows += other.batches.rows;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
        Ok(())
    }

    /// Calls answered well.
    pub fn completed(&self) -> u64 {
        self.latencies.len()
    }

    /// Calls answered well, per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.completed() as f64 / seconds } else { 0.0 }
    }

    /// The latency that this share (0 to 1) of the calls kept, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1e6
    }

    /// The mean latency in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        self.latencies.mean() / 1e6
    }

    /// Rows in a batch, on average.
    pub fn mean_batch(&self) -> f64 {
        self.batches.rows as f64 / self.batches.executions.max(1) as f64
    }

    /// Processor time of the target per good call, in microseconds.
    pub fn processor_us(&self) -> f64 {
        self.processor.as_secs_f64() * 1e6 / self.completed().max(1) as f64
    }

    /// Processor time of the load generator per good call, in microseconds.
    pub fn own_processor_us(&self) -> f64 {
        self.own_processor.as_secs_f64() * 1e6 / self.completed().max(1) as f64
    }
}

/// Runs against one target that took turns with runs against others.
#[derive(Clone, Debug)]
pub struct Series {
    /// All rounds together.
    pub pooled: Measured,
    rounds: Vec<Measured>,
}

impl Series {
    /// No rounds yet.
    pub fn new() -> Result<Self, Failure> {
        Ok(Self { pooled: Measured::new()?, rounds: Vec::new() })
    }

    /// Adds a round.
    pub fn push(&mut self, round: Measured) -> Result<(), Failure> {
        self.pooled.add(&round)?;
        self.rounds.push(round);
        Ok(())
    }

    /// Milliseconds that this share (0 to 1) of the calls took longer than in the same round of
    /// `other`; the median of the rounds, so that one disturbed round does not decide.
    pub fn added_ms(&self, other: &Self, share: f64) -> Option<f64> {
        let pairs = self.rounds.iter().zip(&other.rounds);
        let mut added: Vec<f64> =
            pairs.map(|(mine, its)| mine.quantile_ms(share) - its.quantile_ms(share)).collect();
        added.sort_by(f64::total_cmp);
        added.get(added.len() / 2).copied()
    }
}
