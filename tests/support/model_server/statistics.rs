//! What a model server has seen, for tests to check and for benches to divide by.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

/// A snapshot of the counters since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Inference calls received, whatever became of them.
    pub calls: u64,
    /// Calls answered with an error, injected or not.
    pub failed: u64,
    /// Calls whose caller went away before the end of the answer (stream reset, connection closed),
    /// dropped connections included.
    pub cancelled: u64,
    /// Batches executed: they had a slot. Refused calls are not among them.
    pub executions: u64,
    /// Rows of all executions.
    pub rows: u64,
    /// Rows of the largest execution.
    pub largest_batch: u64,
    /// How many executions there were of each number of rows.
    pub batch_sizes: BTreeMap<u64, u64>,
    /// Calls under way now, waiting ones included.
    pub concurrency: u64,
    /// The largest `concurrency` so far.
    pub max_concurrency: u64,
    /// TCP connections accepted.
    pub connections: u64,
    /// TCP connections open now.
    pub open_connections: u64,
    /// Nanoseconds that executions held a slot.
    pub busy_nanoseconds: u64,
    /// The latest executions, oldest first; as many as the setting `record` says.
    #[serde(skip)]
    pub seen: VecDeque<Seen>,
}

impl Statistics {
    /// Rows per execution; 0 before the first.
    pub fn mean_batch_size(&self) -> f64 {
        if self.executions == 0 { 0.0 } else { self.rows as f64 / self.executions as f64 }
    }
}

/// One execution as the server saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The model's name in the request.
    pub model: String,
    /// The path of the HTTP request or the gRPC method.
    pub path: String,
    /// Rows (items, instances) of the batch.
    pub rows: usize,
    /// The request id of KServe v2; empty elsewhere.
    pub id: String,
    /// The first element of the first input, as text; empty when there is none.
    pub first: String,
    /// Request headers or ASCII gRPC metadata, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The request parameters of KServe v2, as text.
    pub parameters: BTreeMap<String, String>,
    /// The inputs' own parameters of KServe v2 by the inputs' names, as text.
    pub input_parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// The body of an HTTP call, byte for byte; empty for gRPC.
    pub body: Bytes,
}

#[derive(Debug, Default)]
struct Counted {
    statistics: Statistics,
    busy_by_size: BTreeMap<u64, Duration>,
}

/// The counters behind [`Statistics`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    counted: Mutex<Counted>,
    changed: Notify,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Statistics {
        self.counted().statistics.clone()
    }

    /// Executions and their total time by batch size.
    pub(super) fn by_size(&self) -> Vec<(u64, u64, Duration)> {
        let counted = self.counted();
        let sizes = counted.statistics.batch_sizes.iter();
        let busy = |size: &u64| counted.busy_by_size.get(size).copied().unwrap_or_default();
        sizes.map(|(size, count)| (*size, *count, busy(size))).collect()
    }

    /// Forgets everything but what is open or under way now.
    pub(super) fn reset(&self) {
        let mut counted = self.counted();
        let old = std::mem::take(&mut *counted).statistics;
        counted.statistics.concurrency = old.concurrency;
        counted.statistics.max_concurrency = old.concurrency;
        counted.statistics.open_connections = old.open_connections;
    }

    /// Waits until `condition` holds, at most for `bound`; the last snapshot comes back either way.
    pub(super) async fn wait_until(
        &self,
        mut condition: impl FnMut(&Statistics) -> bool,
        bound: Duration,
    ) -> Result<Statistics, Statistics> {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                let now = self.snapshot();
                if condition(&now) {
                    return now;
                }
                changed.await;
            }
        };
        tokio::time::timeout(bound, reached).await.map_err(|_| self.snapshot())
    }

    pub(super) fn call_began(&self) {
        self.change(|statistics| {
            statistics.calls += 1;
            statistics.concurrency += 1;
            statistics.max_concurrency = statistics.max_concurrency.max(statistics.concurrency);
        });
    }

    pub(super) fn call_ended(&self, cancelled: bool) {
        self.change(|statistics| {
            statistics.concurrency -= 1;
            statistics.cancelled += u64::from(cancelled);
        });
    }

    pub(super) fn call_failed(&self) {
        self.change(|statistics| statistics.failed += 1);
    }

    pub(super) fn execution_began(&self, rows: usize, seen: Option<(Seen, usize)>) {
        let rows = rows as u64;
        self.change(|statistics| {
            statistics.executions += 1;
            statistics.rows += rows;
            statistics.largest_batch = statistics.largest_batch.max(rows);
            *statistics.batch_sizes.entry(rows).or_default() += 1;
            if let Some((seen, limit)) = seen {
                while statistics.seen.len() >= limit {
                    statistics.seen.pop_front();
                }
                statistics.seen.push_back(seen);
            }
        });
    }

    pub(super) fn execution_ended(&self, rows: usize, busy: Duration) {
        let mut counted = self.counted();
        counted.statistics.busy_nanoseconds += u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        *counted.busy_by_size.entry(rows as u64).or_default() += busy;
    }

    pub(super) fn connection_opened(&self) {
        self.change(|statistics| {
            statistics.connections += 1;
            statistics.open_connections += 1;
        });
    }

    pub(super) fn connection_closed(&self) {
        self.change(|statistics| statistics.open_connections -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut Statistics)) {
        change(&mut self.counted().statistics);
        self.changed.notify_waiters();
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
