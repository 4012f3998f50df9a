//! One decision: how many rows to send, and how long to hold them.

use super::balance;
use super::classes::sizes;
use super::curve::Curve;
use super::sizes::SizeTable;

/// A batch of such a share of the best efficiency is as good as full.
const NEARLY_FULL: f64 = 0.89;

/// What a decision is made from.
pub(super) struct Outlook<'a> {
    pub(super) curve: &'a Curve,
    /// How many to take, where the curve is not straight.
    pub(super) table: Option<&'a SizeTable>,
    /// Rows that wait and could ride together.
    pub(super) waiting: u32,
    /// Rows that wait, of whatever shape.
    pub(super) all_waiting: f64,
    /// The most rows of the batch.
    pub(super) cap: u32,
    /// The size up to it that pays most.
    pub(super) best: u32,
    /// Arrivals of all shapes in a millisecond.
    pub(super) rate: f64,
    /// How much longer than the records say the usual instance takes.
    pub(super) usual: f64,
    /// Slots of instances that are not slow.
    pub(super) servers: f64,
    /// Free ones among them; at least 1.
    pub(super) free: usize,
    /// Remaining milliseconds of the batches on their way, ascending.
    pub(super) remaining: Vec<f64>,
}

/// How many rows to send.
pub(super) struct Size {
    pub(super) rows: u32,
    /// Whether more would not join them, and they are worth a batch of their own.
    pub(super) full: bool,
    /// So many must wait before any are sent.
    pub(super) wanted: Option<u32>,
}

impl Outlook<'_> {
    pub(super) fn time(&self, rows: u32) -> f64 {
        self.curve.time(rows.max(1)) * self.usual
    }

    /// How many rows to send.
    pub(super) fn size(&self) -> Size {
        let efficiency = |rows: u32| f64::from(rows) / self.time(rows).max(1e-9);
        let nearly_full = |rows| efficiency(rows) >= NEARLY_FULL * efficiency(self.best);
        let most = self.waiting.min(self.cap);
        let size = |rows, full| Size { rows, full, wanted: None };
        match self.table.map(|table| (table, table.take(self.waiting))) {
            Some((table, Some(0))) => {
                return Size { wanted: table.awaits(self.waiting), ..size(most, false) };
            }
            Some((table, Some(taken))) => {
                let rows = taken.min(most);
                let joins = table.take(self.waiting + 1).unwrap_or(self.best) > rows;
                if rows < self.waiting || !joins {
                    return size(rows, !joins && nearly_full(rows));
                }
            }
            Some((_, None)) => return size(most.min(self.best), true),
            None => {
                let rows = most.min(self.best);
                if rows < self.waiting || rows == self.best {
                    return size(rows, nearly_full(rows));
                }
            }
        }
        if self.free == 1 && !self.remaining.is_empty() {
            return size(self.part(most), false);
        }
        if self.free >= 2 {
            return size(self.split(most), false);
        }
        size(most, false)
    }

    /// Everything to the only free server, or only a part, and the rest to the next one.
    fn part(&self, rows: u32) -> u32 {
        let gap = balance::even_gap(&self.remaining, self.free);
        let waiting = f64::from(rows);
        let cost = |sent: u32| {
            let rest = waiting - f64::from(sent);
            let next = (rest + self.rate * gap).round() as u32;
            f64::from(sent) * self.time(sent)
                + rest * gap
                + (rest + self.rate * gap) * if next == 0 { 0.0 } else { self.time(next) }
        };
        let sustains =
            |sent: u32| self.servers * f64::from(sent) / self.time(sent) > 1.1 * self.rate;
        let mut best = (rows, cost(rows));
        for sent in sizes(rows).filter(|&sent| sent < rows && sustains(sent)) {
            let cost = cost(sent);
            if cost < best.1 {
                best = (sent, cost);
            }
        }
        best.0
    }

    /// Everything to one of several free servers, or an equal part to some of them.
    fn split(&self, rows: u32) -> u32 {
        let waiting = f64::from(rows);
        let free = self.free as f64;
        let mut best = (rows, 0.0);
        for parts in 2..=u32::try_from(self.free).unwrap_or(u32::MAX).min(rows) {
            let part = rows.div_ceil(parts);
            let time = self.time(part);
            if f64::from(rows) / f64::from(parts) < self.rate * time / self.servers {
                continue;
            }
            let soonest = self.remaining.first().copied().unwrap_or(f64::INFINITY).min(time);
            let gain = waiting * (self.time(rows) - time)
                - self.rate * soonest * soonest / 2.0
                    * (1.0 / (free - f64::from(parts) + 1.0) - 1.0 / free);
            if gain > best.1 {
                best = (part, gain);
            }
        }
        best.0
    }

    pub(super) fn hold_for_balance(&self) -> f64 {
        let line = self.curve.line();
        let reluctance = balance::reluctance(
            self.rate,
            self.servers,
            line.base * self.usual,
            line.per_row * self.usual,
        );
        let waiting = self.all_waiting + 0.5 + reluctance;
        // With noisy times the plan erodes before it is carried out.
        let rate = self.rate * (1.0 - 1.5 * self.curve.noise()).max(0.25);
        let service = self.time(self.waiting.min(self.cap));
        balance::hold(&self.remaining, self.free, waiting, rate, service)
    }
}
