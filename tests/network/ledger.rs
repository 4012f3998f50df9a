//! Every call, what became of it, and which hosts it came to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::history::History;
use crate::model_server::Arrival;
use crate::scenario::Manners;
use crate::speech::{Call, Heard, call_of};

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) call: Call,
    pub(crate) manners: Manners,
    /// The phase that it was made in.
    pub(crate) phase: usize,
    /// Microseconds since the run began.
    pub(crate) began: u64,
    pub(crate) ended: Option<u64>,
    /// What its caller heard, each time that it heard something.
    pub(crate) heard: Vec<Heard>,
    /// When it came to hosts, and to which.
    pub(crate) arrivals: Vec<(u64, &'static str)>,
}

/// Every call. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) history: History,
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
}

impl Ledger {
    pub(crate) fn new(history: History) -> Self {
        Self { history, entries: Arc::default() }
    }

    pub(crate) fn begins(&self, call: &Call, manners: Manners, phase: usize) {
        let Call { id, model, speech, rows, poison, .. } = call;
        let poison = if *poison { ", poison" } else { "" };
        self.history.note(format!("call {id} begins: {model} {speech:?} rows {rows}{poison}"));
        let entry = Entry {
            call: call.clone(),
            manners,
            phase,
            began: self.history.now(),
            ended: None,
            heard: Vec::new(),
            arrivals: Vec::new(),
        };
        self.entries().insert(call.id, entry);
    }

    pub(crate) fn ends(&self, id: u64, heard: Heard) {
        self.history.note(format!("call {id} ends: {heard:?}"));
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.ended = Some(self.history.now());
            entry.heard.push(heard);
        }
    }

    /// Something came to a host, which begins no batch of more than so many rows.
    pub(crate) fn arrived(&self, host: &'static str, most: usize, arrival: &Arrival) {
        let (model, elements) = match arrival {
            Arrival::Batch { model, elements } => (model, elements),
            Arrival::Struck { path, fault } => {
                return self.history.note(format!("{host} has {path}: {fault}"));
            }
        };
        let mut calls: Vec<u64> = elements.iter().filter_map(|element| call_of(element)).collect();
        calls.dedup();
        self.history.note(format!("{host} has {model}: {} rows of {calls:?}", elements.len()));
        if elements.len() > most {
            return;
        }
        let now = self.history.now();
        let mut entries = self.entries();
        for call in calls {
            if let Some(entry) = entries.get_mut(&call) {
                entry.arrivals.push((now, host));
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.entries().values().cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
