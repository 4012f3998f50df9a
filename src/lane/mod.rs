//! The policy of one model as a state machine: queue, sizing, batches, breakers, fleet, bisection.
//!
//! Events and explicit time in, effects out. Nothing here reads a clock, starts a task or opens a
//! socket, which is why a million calls can be simulated in a second, and why it is trusted.
//! Whoever drives a [`Lane`] feeds it with [`Lane::on`], then calls [`Lane::next`] until it has no
//! more to say, then sleeps until [`Lane::wake_at`] or the next event.
//!
//! A call is an opaque payload `P` with a [`Ticket`]. **Ownership is the exactly-once proof**: a
//! payload enters by [`Event::Arrive`] and leaves by [`Effect::Dispatch`], [`Effect::Refuse`] or,
//! when nobody waits for it any more, by being dropped; nothing in this room can copy or answer it.
//!
//! Binding is late: a batch is cut when a slot is free, and not before, so that what is most urgent
//! *then* rides in it.

mod breaker;
mod budget;
mod cut;
mod event;
mod fleet;
mod hedge;
mod lead;
mod limit;
mod machine;
mod offenders;
mod outcome;
mod overdue;
mod policy;
mod queue;
mod room;
mod standing;
mod streams;
mod succession;
mod ticket;
mod time;
mod trial;
mod waiting;
mod width;

pub use breaker::{Admission, BreakerPlan, BreakerState};
pub use event::{
    Batch, Blame, Cause, Effect, Event, InstanceChange, LanePlan, Notice, Objective, Outcome,
    RefuseReason, SlotId, Snapshot, TurnedAway, Unshared,
};
pub use fleet::{Health, InstanceView};
pub use hedge::HedgeDelay;
pub use limit::LARGEST_BATCH;
pub use machine::Lane;
pub use policy::{
    Adaptive, Calculated, Calculation, Decision, Departure, FixedDelay, Learned, LearnedCurve,
    Policy, PolicyExperience, Server, View,
};
pub use standing::ControlledDelay;
pub use streams::EngineLoad;
pub use succession::Experience;
pub use ticket::{AGEING, CallId, Member, Payload, Place, ShapeKey, TenantId, Ticket, Track};
pub use time::{Instant, Span};

/// Names an instance within its lane: its index in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);
