//! What the policy may know of a call.

use std::sync::Arc;

use super::{InstanceId, Instant, Span};

/// What arrives within this span is ordered strictly by priority; beyond twice of it age wins, so
/// that nothing starves.
pub const AGEING: Span = Span::from_secs(10);
/// Within a priority, how far a later deadline can put a call off, and how far what its tenant has
/// waiting can.
const LATITUDE: Span = Span::from_secs(5);

/// Names a call within its lane; later calls have larger numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Everything that must be equal for two calls to share a batch, as canonical bytes.
///
/// The bytes themselves are compared, not a hash of them: a collision would join what cannot be
/// joined.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShapeKey(Arc<[u8]>);

impl ShapeKey {
    /// A key from its canonical bytes.
    pub fn new(canonical: &[u8]) -> Self {
        Self(canonical.into())
    }

    /// The length of its canonical bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the canonical bytes are empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Tells tenants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u64);

/// Which of an instance's two kinds of slot a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Track {
    /// A slot that is held until the batch is answered; calls of one shape key may share it.
    Batch,
    /// A slot that is held until the last event of a stream; never shared.
    Stream,
}

/// What the policy may know of a call.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The call's name.
    pub id: CallId,
    /// The kind of slot it needs.
    pub track: Track,
    /// Whom it may share a batch with; `None` for a call that must ride alone.
    pub key: Option<ShapeKey>,
    /// Its items along the batch axis; at least 1.
    pub rows: u32,
    /// Which of the call's rows is its first: 0, but for a part of a call that was cut.
    pub first_row: u32,
    /// The memory that it holds while it waits.
    pub bytes: u64,
    /// Tokens of its longest text; 0 when it has none.
    pub longest_tokens: u32,
    /// 1 is the most urgent.
    pub priority: u8,
    /// When it was accepted.
    pub arrived: Instant,
    /// When its caller stops waiting.
    pub deadline: Instant,
    /// Who it is from, where that is known.
    pub tenant: Option<TenantId>,
    /// Streams of the same affinity are best served by the same instance; `None`: all alike.
    pub affinity: Option<u64>,
    /// When its answer is due by the model's latency objective, where that applies to it. The lane
    /// says so when the call comes.
    pub objective: Option<Instant>,
    /// How far what its tenant had waiting already puts it off. The lane says so when the call comes.
    pub put_off: Span,
}

/// Where a call stands among those that wait on its track; smaller is more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The arrival, put off for each level below the most urgent, for a late deadline and for what
    /// its tenant had waiting.
    urgency: Instant,
    /// Breaks ties: first come, first served.
    id: CallId,
    /// Tells the parts of one call apart.
    first_row: u32,
}

impl Place {
    /// The call that stands there.
    pub fn id(&self) -> CallId {
        self.id
    }

    /// How urgent it is; earlier is more urgent.
    pub(super) fn urgency(&self) -> Instant {
        self.urgency
    }

    /// Where all the parts of that call stand.
    pub(super) fn parts(&self) -> std::ops::RangeInclusive<Place> {
        Place { first_row: 0, ..*self }..=Place { first_row: u32::MAX, ..*self }
    }
}

impl Ticket {
    /// When an answer is of no use any more: the sooner of its deadline and its objective.
    pub fn due(&self) -> Instant {
        self.objective.map_or(self.deadline, |objective| objective.min(self.deadline))
    }

    /// Where the call stands among those that wait on its track.
    pub fn place(&self) -> Place {
        let levels = AGEING.times(2).times(u64::from(self.priority.saturating_sub(1)));
        let slack = self.deadline.since(self.arrived).min(LATITUDE);
        let put_off = levels.plus(slack).plus(self.put_off.min(LATITUDE));
        Place { urgency: self.arrived + put_off, id: self.id, first_row: self.first_row }
    }
}

/// A call as it travels through the lane: its ticket, its opaque payload and what befell it.
///
/// A payload enters the lane by one event and leaves it by one effect. `P` is not `Clone`, so the
/// lane cannot answer a call twice, and whoever holds the member holds the call.
#[derive(Debug)]
pub struct Member<P> {
    /// What the policy knows of the call.
    pub ticket: Ticket,
    /// What the policy does not know of it.
    pub payload: P,
    /// Batches that broke under it.
    pub attempts: u8,
    /// Times that an instance was too busy for it.
    pub bounces: u8,
    /// Instances that were lost with it on board.
    pub losses: u8,
    /// Whether it was called back from an instance once.
    pub recalled: bool,
    /// The instance whose fault its last failure was.
    pub avoid: Option<InstanceId>,
}

impl<P> Member<P> {
    /// A call that nothing has befallen yet.
    pub fn new(ticket: Ticket, payload: P) -> Self {
        Self { ticket, payload, attempts: 0, bounces: 0, losses: 0, recalled: false, avoid: None }
    }
}

/// What the lane asks of a payload.
pub trait Payload {
    /// Cuts the first `rows` rows off into a payload of their own, which shares the call's reply:
    /// the caller gets the rows of all parts, in order, or the first fault of any.
    #[must_use]
    fn split_off(&mut self, rows: u32) -> Self;

    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;

    /// A hash of what is asked for: the same for the same input. Asked only where something has
    /// spoiled a batch.
    fn signature(&self) -> u64;
}
