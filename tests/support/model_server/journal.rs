//! When each batch came and went and what was in it, for benches that ask afterwards whether a call
//! reached the server at all, when, and in whose company.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One KServe v2 batch as the journal tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// When it was received, in microseconds since the Unix epoch.
    pub arrived_us: u64,
    /// When it was answered, or given up by its caller, in the same unit; `None`: it is still here.
    pub left_us: Option<u64>,
    /// The first element of each row where the first input is FP32; else empty.
    pub values: Vec<f32>,
}

/// Microseconds since the Unix epoch: the only clock that processes share without ado.
pub fn unix_time_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// The latest visits.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    visits: VecDeque<Visit>,
    /// Visits that were dropped from the front: what keeps the numbers of the others.
    forgotten: usize,
}

impl Journal {
    /// Notes a batch that lasts as long as what is returned; keeps `limit` of the latest.
    pub(super) fn begin(self: &Arc<Self>, values: Vec<f32>, limit: usize) -> VisitGuard {
        let mut pages = self.pages();
        while pages.visits.len() >= limit.max(1) {
            pages.visits.pop_front();
            pages.forgotten += 1;
        }
        pages.visits.push_back(Visit { arrived_us: unix_time_us(), left_us: None, values });
        let number = pages.forgotten + pages.visits.len() - 1;
        VisitGuard { journal: Arc::clone(self), number }
    }

    pub(super) fn visits(&self) -> Vec<Visit> {
        self.pages().visits.iter().cloned().collect()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the end of a visit when dropped.
#[derive(Debug)]
pub(super) struct VisitGuard {
    journal: Arc<Journal>,
    number: usize,
}

impl Drop for VisitGuard {
    fn drop(&mut self) {
        let mut pages = self.journal.pages();
        let index = self.number.checked_sub(pages.forgotten);
        if let Some(visit) = index.and_then(|index| pages.visits.get_mut(index)) {
            visit.left_us = Some(unix_time_us());
        }
    }
}
