//! The lane that ships, as a system: what is measured here is the very code that serves.

use batchwise::lane::{
    Adaptive, Blame, CallId, Effect, Event, FixedDelay, Health, InstanceChange, InstanceId,
    Instant, Lane, LanePlan, Member, Outcome, Payload, Policy, RefuseReason, ShapeKey, SlotId,
    Span, Ticket, Track,
};

use super::system::{Dispatch, Refusal, System};

/// A caller without a deadline waits for as long as this.
const PATIENCE: Span = Span::from_secs(86_400);

/// What one call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long after its arrival an answer is of no use any more; `None` for never.
    pub deadline: Option<Span>,
    /// 1 is the most urgent.
    pub priority: u8,
}

impl Terms {
    /// No deadline, most urgent.
    pub const PATIENT: Self = Self { deadline: None, priority: 1 };
}

/// A plan for so many instances: one batch at a time on each, a queue without bounds, and nothing
/// sent to an instance that is busy (see [`LanePlan::early_slot`]).
#[must_use]
pub fn plan(instances: usize, max_batch_rows: Option<usize>) -> LanePlan {
    let rows = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
    LanePlan {
        instances: rows(instances),
        max_batch_rows: max_batch_rows.map(rows),
        max_queue_rows: u64::MAX,
        max_queue_bytes: u64::MAX,
        ..LanePlan::default()
    }
}

/// The policy that takes whatever waits the moment a slot is free.
#[must_use]
pub fn greedy(instances: usize) -> Box<dyn Policy> {
    Box::new(FixedDelay::new(Span::ZERO, u32::try_from(instances).unwrap_or(u32::MAX)))
}

/// The policy that ships, for so many instances.
#[must_use]
pub fn shipped(instances: usize) -> Box<dyn Policy> {
    Box::new(Adaptive::new(u32::try_from(instances).unwrap_or(u32::MAX)))
}

/// A call inside the lane.
#[derive(Debug)]
pub struct Passenger {
    call: usize,
}

impl Payload for Passenger {
    fn split_off(&mut self, _rows: u32) -> Self {
        Self { call: self.call }
    }

    fn signature(&self) -> u64 {
        self.call as u64
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

/// A [`Lane`] under a plan and a policy, as a [`System`].
pub struct Shipped {
    lane: Lane<Passenger>,
    key: ShapeKey,
    blame: Blame,
    terms: Box<dyn Fn(usize) -> Terms>,
    /// The calls of the batches on their way; there are never more than a few.
    flying: Vec<(SlotId, Vec<Member<Passenger>>)>,
    refused: Vec<Refusal>,
    recalled: Vec<u64>,
}

impl std::fmt::Debug for Shipped {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shipped").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl Shipped {
    /// A lane whose instances are all up.
    #[must_use]
    pub fn new(plan: LanePlan, policy: Box<dyn Policy>) -> Self {
        let instances = plan.instances;
        let mut lane = Lane::new(plan, policy);
        for id in (0..instances).map(InstanceId) {
            let up = InstanceChange::Health(Health::Up);
            lane.on(Instant::default(), Event::Instance(id, up));
        }
        Self {
            lane,
            key: ShapeKey::new(b"row"),
            blame: Blame::Broken,
            terms: Box::new(|_| Terms::PATIENT),
            flying: Vec::new(),
            refused: Vec::new(),
            recalled: Vec::new(),
        }
    }

    /// The same with what each call asks for, by its number.
    #[must_use]
    pub fn with_terms(self, terms: impl Fn(usize) -> Terms + 'static) -> Self {
        Self { terms: Box::new(terms), ..self }
    }

    /// The same with this deadline for every call.
    #[must_use]
    pub fn with_deadline(self, deadline: Span) -> Self {
        self.with_terms(move |_| Terms { deadline: Some(deadline), ..Terms::PATIENT })
    }

    /// The same with another blame for failed batches than [`Blame::Broken`].
    #[must_use]
    pub fn with_blame(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }
}

impl System for Shipped {
    fn arrive(&mut self, now: Instant, call: usize) {
        let Terms { deadline, priority } = (self.terms)(call);
        let ticket = Ticket {
            id: CallId(call as u64),
            track: Track::Batch,
            key: Some(self.key.clone()),
            rows: 1,
            first_row: 0,
            bytes: 1,
            longest_tokens: 0,
            priority,
            arrived: now,
            deadline: now + deadline.unwrap_or(PATIENCE),
            tenant: None,
            objective: None,
            put_off: Span::ZERO,
            affinity: None,
        };
        self.lane.on(now, Event::Arrive(ticket, Passenger { call }));
    }

    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool) {
        let slot = SlotId(batch.token);
        let Some(index) = self.flying.iter().position(|(flying, _)| *flying == slot) else {
            return;
        };
        let (_, members) = self.flying.swap_remove(index);
        let outcome = if succeeded {
            Outcome::Served { batched: true }
        } else {
            Outcome::Failed(members, self.blame)
        };
        self.lane.on(now, Event::Done(slot, outcome));
    }

    fn next(&mut self, now: Instant) -> Option<Dispatch> {
        loop {
            match self.lane.next(now)? {
                Effect::Dispatch(slot, instance, batch) => {
                    let calls = batch.members.iter().map(|member| member.payload.call).collect();
                    self.flying.push((slot, batch.members));
                    return Some(Dispatch { token: slot.0, instance: instance.0 as usize, calls });
                }
                Effect::Refuse(member, reason) => {
                    let failed =
                        matches!(reason, RefuseReason::Spent | RefuseReason::NoInstance(_));
                    self.refused.push(Refusal { call: member.payload.call, failed });
                }
                // No time passes for the calls: the answer is there at once.
                Effect::Calculate(calculation) => {
                    self.lane.on(now, Event::Calculated(calculation.run()));
                }
                Effect::Recall(slot) => {
                    let flying = self.flying.iter_mut().find(|(flying, _)| *flying == slot);
                    let members = flying.map(|(_, members)| std::mem::take(members));
                    self.recalled.push(slot.0);
                    self.lane.on(now, Event::Recalled(slot, members.unwrap_or_default()));
                }
                // The instance goes on nevertheless; notices are for operators.
                // Nobody here asks for hedges.
                Effect::Abort(_) | Effect::Notice(_) | Effect::Hedge { .. } => {}
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.lane.wake_at()
    }

    fn refused(&mut self) -> Option<Refusal> {
        self.refused.pop()
    }

    fn recalled(&mut self) -> Option<u64> {
        self.recalled.pop()
    }
}
