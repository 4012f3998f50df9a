//! What waits in all queues together: how much, at which priority, of whom, and how much of it is
//! more urgent than a newcomer.

use std::collections::BTreeMap;

use super::ticket::{Place, TenantId, Ticket, Track};
use super::{Instant, Span};

/// Rows are counted by urgency in steps of this, so that counting those before a place is cheap.
const STEP: Span = Span::from_millis(50);

/// What waits in all queues together.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) by_priority: Vec<u32>,
    /// Each tenant that has any; calls that name none are of one of them.
    tenants: BTreeMap<Option<TenantId>, Share>,
    /// Rows that wait for a batch, by urgency in steps.
    urgencies: BTreeMap<u64, u64>,
}

/// What a tenant has waiting.
#[derive(Debug, Default)]
struct Share {
    rows: u64,
    /// Its newest call, put off by what waited before it: those to come stand behind it.
    newest: Instant,
}

impl Waiting {
    pub(super) fn add(&mut self, ticket: &Ticket) {
        self.rows += u64::from(ticket.rows);
        self.bytes += ticket.bytes;
        let level = usize::from(ticket.priority.max(1));
        if self.by_priority.len() < level {
            self.by_priority.resize(level, 0);
        }
        if let Some(count) = self.by_priority.get_mut(level - 1) {
            *count += 1;
        }
        let share = self.tenants.entry(ticket.tenant).or_default();
        share.rows += u64::from(ticket.rows);
        share.newest = share.newest.max(ticket.arrived + ticket.put_off);
        if ticket.track == Track::Batch {
            *self.urgencies.entry(step(ticket.place())).or_default() += u64::from(ticket.rows);
        }
    }

    /// A call has left, or a part of it: then it is still one that waits (`whole` is false).
    pub(super) fn remove(&mut self, ticket: &Ticket, whole: bool) {
        self.rows = self.rows.saturating_sub(u64::from(ticket.rows));
        self.bytes = self.bytes.saturating_sub(ticket.bytes);
        if whole
            && let Some(count) = self.by_priority.get_mut(usize::from(ticket.priority.max(1)) - 1)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(share) = self.tenants.get_mut(&ticket.tenant) {
            share.rows = share.rows.saturating_sub(u64::from(ticket.rows));
            if share.rows == 0 {
                self.tenants.remove(&ticket.tenant);
            }
        }
        let step = step(ticket.place());
        if ticket.track == Track::Batch
            && let Some(rows) = self.urgencies.get_mut(&step)
        {
            *rows = rows.saturating_sub(u64::from(ticket.rows));
            if *rows == 0 {
                self.urgencies.remove(&step);
            }
        }
    }

    /// The rows of a tenant.
    pub(super) fn of(&self, tenant: Option<TenantId>) -> u64 {
        self.tenants.get(&tenant).map_or(0, |share| share.rows)
    }

    /// How far a call of a tenant is put off that comes now, when its rows before it take so long:
    /// never before an earlier one.
    pub(super) fn put_off(&self, now: Instant, tenant: Option<TenantId>, before: Span) -> Span {
        self.tenants.get(&tenant).map_or(before, |share| before.max(share.newest.since(now)))
    }

    /// Rows for a batch that are certainly more urgent than a call of this place.
    pub(super) fn rows_before(&self, place: Place) -> u64 {
        self.urgencies.range(..step(place)).map(|(_, rows)| rows).sum()
    }

    /// Calls of a priority.
    pub(super) fn at_level(&self, priority: u8) -> u64 {
        let calls = self.by_priority.get(usize::from(priority.max(1)) - 1);
        calls.copied().unwrap_or(0).into()
    }

    /// Levels at which calls wait.
    pub(super) fn levels(&self) -> usize {
        self.by_priority.iter().filter(|&&calls| calls > 0).count()
    }
}

fn step(place: Place) -> u64 {
    place.urgency().since(Instant::default()).as_nanos() / STEP.as_nanos()
}
