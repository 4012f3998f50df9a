//! What a model has done, in the terms of Triton's statistics extension.

use std::collections::BTreeMap;
use std::time::Duration;

/// So many times, so long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// How many times.
    pub count: u64,
    /// How long in all, in nanoseconds.
    pub ns: u64,
}

impl Counted {
    fn add(&mut self, count: u64, each: Duration) {
        let nanos = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        self.count += count;
        self.ns = self.ns.saturating_add(nanos.saturating_mul(count));
    }
}

/// What a model has done since the start.
///
/// A call's `queue` is its wait in the lane; `compute_input` is joining, `compute_infer` the
/// instance's answer, `compute_output` splitting.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ModelStatistics {
    /// When the last batch was answered, in milliseconds since 1970; 0 for never.
    pub last_inference: u64,
    /// Rows answered.
    pub inference_count: u64,
    /// Batches answered.
    pub execution_count: u64,
    /// Calls answered, and from acceptance to answer.
    pub success: Counted,
    /// Calls that failed.
    pub fail: Counted,
    /// See above.
    pub queue: Counted,
    /// See above.
    pub compute_input: Counted,
    /// See above.
    pub compute_infer: Counted,
    /// See above.
    pub compute_output: Counted,
    /// By the rows of the batch.
    pub batches: BTreeMap<u32, BatchStatistics>,
}

/// What batches of one size have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BatchStatistics {
    /// Joining.
    pub compute_input: Counted,
    /// The instance's answer.
    pub compute_infer: Counted,
    /// Splitting.
    pub compute_output: Counted,
}

/// Where the time of one batch went.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchTimes {
    pub(super) rows: u32,
    pub(super) calls: u32,
    pub(super) join: Duration,
    pub(super) infer: Duration,
    pub(super) split: Duration,
}

impl ModelStatistics {
    pub(super) fn batch(&mut self, times: &BatchTimes, at_millis: u64) {
        self.last_inference = at_millis;
        self.inference_count += u64::from(times.rows);
        self.execution_count += 1;
        let calls = u64::from(times.calls);
        self.compute_input.add(calls, times.join);
        self.compute_infer.add(calls, times.infer);
        self.compute_output.add(calls, times.split);
        let batch = self.batches.entry(times.rows).or_default();
        batch.compute_input.add(1, times.join);
        batch.compute_infer.add(1, times.infer);
        batch.compute_output.add(1, times.split);
    }

    pub(super) fn call(&mut self, served: bool, queue: Option<Duration>, took: Duration) {
        if served { &mut self.success } else { &mut self.fail }.add(1, took);
        if let Some(queue) = queue {
            self.queue.add(1, queue);
        }
    }
}
