//! The size tables of one kind of batch: which are there, which are out of date, what to ask for.

use std::collections::BTreeMap;

use super::classes::sizes;
use super::curve::Curve;
use super::sizes::{Calculated, Calculation, Problem, SizeTable, level, load};
use crate::lane::ShapeKey;

/// A curve within this share of a line needs no table: everybody is taken.
const STRAIGHT: f64 = 0.03;
/// Tables are made anew when a time has moved by more than this share.
const MOVED: f64 = 0.04;
/// Answers between two calculations, so that a crooked and noisy curve does not keep a processor busy.
const PAUSE: u64 = 16;

/// The size tables of one kind of batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    /// By load level.
    tables: BTreeMap<usize, Solved>,
    cap: u32,
    pending: bool,
    asked_at: u64,
}

#[derive(Clone, Debug)]
struct Solved {
    table: SizeTable,
    /// The service times that it holds for.
    times: Vec<f64>,
}

impl Tables {
    /// The same for another policy, which does not wait for what this one has asked for.
    pub(super) fn handed_over(&self) -> Self {
        Self { pending: false, ..self.clone() }
    }

    /// The table for the load nearest to `load`; where there is none at all, everybody is taken.
    pub(super) fn at(&self, load: f64, cap: u32) -> Option<&SizeTable> {
        let wanted = level(load);
        self.tables
            .iter()
            .filter(|_| self.cap == cap)
            .min_by_key(|(level, _)| level.abs_diff(wanted))
            .map(|(_, solved)| &solved.table)
    }

    /// What should be calculated now, if anything.
    pub(super) fn wanted(
        &mut self,
        key: Option<&ShapeKey>,
        curve: &Curve,
        cap: u32,
        at: f64,
    ) -> Option<Calculation> {
        let due = curve.answers() >= self.asked_at + PAUSE || self.asked_at == 0;
        if self.pending || !due {
            return None;
        }
        self.asked_at = curve.answers();
        let straight = |rows: u32| (curve.time(rows) / curve.line_at(rows) - 1.0).abs() <= STRAIGHT;
        if sizes(cap).all(straight) {
            self.tables.clear();
            return None;
        }
        let level = level(at);
        let problem = Problem::new(cap, |rows| curve.time(rows), load(level));
        let known = self.tables.get(&level).filter(|_| self.cap == cap);
        if known.is_some_and(|solved| !problem.differs(&solved.times, MOVED)) {
            return None;
        }
        self.pending = true;
        Some(Calculation { key: key.cloned(), level, cap, problem })
    }

    /// Takes in what came of it.
    pub(super) fn learn(&mut self, calculated: Calculated) {
        self.pending = false;
        let Calculated { level, cap, table, times, .. } = calculated;
        if self.cap != cap {
            self.tables.clear();
            self.cap = cap;
        }
        self.tables.insert(level, Solved { table, times });
    }
}
