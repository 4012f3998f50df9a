//! When a batch is cut, how many rows it gets, and which instance serves it.

mod adaptive;
mod balance;
mod classes;
mod curve;
mod explore;
mod fit;
mod fixed;
mod gather;
mod objective;
mod outlook;
mod rate;
mod sizes;
mod spread;
mod tables;

use std::collections::BTreeMap;

use self::curve::Curve;
use self::gather::Gaps;
use self::tables::Tables;
use super::{Cause, InstanceId, Instant, ShapeKey, SlotId, Span};

pub use adaptive::Adaptive;
pub use fixed::FixedDelay;
pub use sizes::{Calculated, Calculation};

/// What a policy decides upon: free slots, and the calls that could share a batch.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The time.
    pub now: Instant,
    /// What the calls have in common.
    pub key: &'a ShapeKey,
    /// The rows that wait and could share the batch.
    pub waiting_rows: u64,
    /// The rows that wait for these instances, of whatever shape.
    pub all_waiting_rows: u64,
    /// Whether calls of several priorities wait, or did a moment ago.
    pub mixed: bool,
    /// When the most urgent of the calls arrived.
    pub oldest: Instant,
    /// When the answer to the most urgent of the calls is due.
    pub deadline: Instant,
    /// The usable instances, busy ones too. At least one has a free slot.
    pub servers: &'a [Server],
    /// The time after their arrival within which calls are to be answered.
    pub objective: Option<Span>,
    /// Whether the lane is to empty itself.
    pub draining: bool,
}

/// A usable instance as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub id: InstanceId,
    /// Batches that it may run at once.
    pub slots: u32,
    /// Batches that it could take now.
    pub free: u32,
    /// The most rows that its next batch may have; at least 1.
    pub cap: u32,
    /// Whether it is still busy, but done in a moment.
    pub ahead: bool,
    /// Grows with each batch that it got.
    pub last_sent: u64,
}

/// What a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Cut a batch.
    Send {
        /// For whom; it has a free slot.
        instance: InstanceId,
        /// Of up to so many rows.
        rows: u32,
        /// Why now, and no larger.
        cause: Cause,
        /// When its answer is expected.
        expected: Option<Instant>,
    },
    /// Nothing before this time, unless something changes.
    Hold(Instant),
}

/// Decides when a batch is cut, how many rows it gets and who serves it.
///
/// The lane tells what arrives, what goes out and what comes back, and asks whenever a slot is free
/// and somebody waits.
pub trait Policy: std::fmt::Debug + Send {
    /// A call came.
    fn arrived(&mut self, now: Instant, key: Option<&ShapeKey>, rows: u32) {
        let _ = (now, key, rows);
    }

    /// Send now, or hold.
    fn decide(&mut self, view: &View<'_>) -> Decision;

    /// The least time that a call would take from now on; zero while that is not known.
    fn least_time(&self, key: Option<&ShapeKey>) -> Span {
        let _ = key;
        Span::ZERO
    }

    /// How long a batch is expected to take; `None` while that is not known.
    fn expected(&self, key: Option<&ShapeKey>, instance: InstanceId, rows: u32) -> Option<Span> {
        let _ = (key, instance, rows);
        None
    }

    /// When an instance is expected to be done with the first of its batches, and how long that batch
    /// takes in all.
    fn first_back(&self, now: Instant, instance: InstanceId) -> Option<(Instant, Span)> {
        let _ = (now, instance);
        None
    }

    /// The only batch that an instance has was behind another; it takes as long as if it had been
    /// sent at this time.
    fn begun(&mut self, instance: InstanceId, at: Instant) {
        let _ = (instance, at);
    }

    /// A batch went out.
    fn sent(&mut self, now: Instant, departure: &Departure<'_>) {
        let _ = (now, departure);
    }

    /// A batch is back; `served` if every call of it was answered.
    fn back(&mut self, now: Instant, slot: SlotId, served: bool) {
        let _ = (now, slot, served);
    }

    /// What it wants calculated.
    fn calculation(&mut self) -> Option<Calculation> {
        None
    }

    /// What came of a calculation.
    fn calculated(&mut self, calculated: Calculated) {
        let _ = calculated;
    }

    /// What another policy for the same model would have to learn again.
    fn experience(&self) -> PolicyExperience {
        PolicyExperience::default()
    }

    /// Begins with what another policy has learned; `before`: what each instance was called there,
    /// `None` for one that it had not.
    fn succeed(&mut self, experience: &PolicyExperience, before: &[Option<InstanceId>]) {
        let _ = (experience, before);
    }

    /// What it goes by.
    fn learned(&self, now: Instant) -> Learned {
        let _ = now;
        Learned::default()
    }
}

/// What a policy has learned, for people to look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Rows that arrive in a second.
    pub rows_per_second: f64,
    /// The service times of each kind of batch, the one with most answers first.
    pub curves: Vec<LearnedCurve>,
}

/// How long the batches of one shape key take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LearnedCurve {
    /// Batches that it was learned from.
    pub batches: u64,
    /// The nearest straight line: milliseconds that every batch costs.
    pub base_ms: f64,
    /// And that every row costs.
    pub per_row_ms: f64,
    /// The spread of times about their mean, as a share of it.
    pub noise: f64,
    /// The size that serves most rows a second, among those seen and smaller.
    pub most_efficient_rows: u32,
    /// Expected milliseconds by rows, at the sizes seen.
    pub points: Vec<(u32, f64)>,
    /// How much longer than most each instance takes.
    pub factors: Vec<f64>,
}

/// What a policy has learned, for another one.
#[derive(Debug, Default)]
pub struct PolicyExperience {
    families: BTreeMap<Option<ShapeKey>, Known>,
    batch_millis: f64,
}

/// What is known of one kind of batch.
#[derive(Debug)]
struct Known {
    curve: Curve,
    tables: Tables,
    gaps: Gaps,
    last_used: Instant,
}

/// A batch that goes out.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    /// Its name.
    pub slot: SlotId,
    /// Who serves it.
    pub instance: InstanceId,
    /// What its calls have in common; `None` for one that rides alone.
    pub key: Option<&'a ShapeKey>,
    /// Its rows.
    pub rows: u32,
    /// Whether it has a slot of its own, so that its time tells what such a batch takes.
    pub telling: bool,
}

/// The free server that has least to do, and of those the one unused for longest.
pub(super) fn least_loaded(
    servers: &[Server],
    accepts: impl Fn(InstanceId) -> bool,
) -> Option<&Server> {
    servers
        .iter()
        .filter(|server| server.free > 0 && accepts(server.id))
        .min_by_key(|server| (server.slots - server.free.min(server.slots), server.last_sent))
}

/// A length of time in milliseconds: what policies calculate with.
fn millis(span: Span) -> f64 {
    span.as_nanos() as f64 / 1e6
}

/// The other way; negative and endless times are cut off.
fn span(millis: f64) -> Span {
    Span::from_nanos((millis * 1e6) as u64)
}
