//! The ledger: what has become of every row of every call.

use std::cell::RefCell;
use std::rc::Rc;

use batchwise::lane::{Payload, ShapeKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Waiting,
    Answered,
    Refused,
    /// Given up silently, which is right only when nobody waits for it.
    Dropped,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rows: Vec<Fate>,
    pub(crate) cancelled: bool,
    pub(crate) poison: bool,
    pub(crate) killer: bool,
    pub(crate) key: Option<ShapeKey>,
}

impl Entry {
    fn abandoned(&self) -> bool {
        self.cancelled || self.rows.contains(&Fate::Refused)
    }
}

pub(crate) type Ledger = Rc<RefCell<Vec<Entry>>>;

/// A part of a call: the payload of the simulated lane.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) call: usize,
    pub(crate) rows: std::ops::Range<u32>,
    pub(crate) ledger: Ledger,
}

impl Part {
    pub(crate) fn settle(self, fate: Fate) {
        self.mark(fate);
        std::mem::forget(self);
    }

    fn mark(&self, fate: Fate) {
        let mut ledger = self.ledger.borrow_mut();
        let entry = &mut ledger[self.call];
        for row in self.rows.clone() {
            let old = std::mem::replace(&mut entry.rows[row as usize], fate);
            assert_eq!(old, Fate::Waiting, "row {row} of call {} settled twice", self.call);
        }
    }
}

impl Payload for Part {
    fn split_off(&mut self, rows: u32) -> Self {
        let cut = self.rows.start + rows;
        let head = self.rows.start..cut;
        self.rows.start = cut;
        Part { call: self.call, rows: head, ledger: Rc::clone(&self.ledger) }
    }

    fn signature(&self) -> u64 {
        self.call as u64
    }

    fn is_abandoned(&self) -> bool {
        self.ledger.borrow()[self.call].abandoned()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert!(self.is_abandoned(), "call {} was dropped though somebody waits", self.call);
        self.mark(Fate::Dropped);
    }
}

/// Checks that every row has left exactly once, and that no healthy call was refused for another's
/// sake. Returns (calls answered, calls refused, calls cancelled).
pub(crate) fn settle_accounts(ledger: &Ledger) -> (usize, usize, usize) {
    let mut sums = (0, 0, 0);
    for (call, entry) in ledger.borrow().iter().enumerate() {
        assert!(!entry.rows.contains(&Fate::Waiting), "call {call} has no answer: {entry:?}");
        if entry.cancelled {
            sums.2 += 1;
        } else if entry.rows.contains(&Fate::Refused) {
            sums.1 += 1;
        } else {
            assert!(
                entry.rows.iter().all(|&fate| fate == Fate::Answered),
                "call {call}: {entry:?}"
            );
            sums.0 += 1;
        }
    }
    sums
}
