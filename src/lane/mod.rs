//! The policy of one model as a state machine.
//!
//! Events and explicit time in, effects out. Nothing here reads a clock, starts a task or opens a
//! socket, which is why a million calls can be simulated in a second.

mod ticket;
mod time;

pub use ticket::{CallId, Member, Payload, ShapeKey, Ticket, Track};
pub use time::{Instant, Span};

/// Names an instance within its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);

/// Whose fault it is that a batch has no answer, which decides what becomes of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The connection could not be made, or broke before any reply.
    Connection,
    /// The instance said that it has too much to do: back-pressure, not a fault.
    Overload {
        /// When it wants to be asked again, where it said so.
        retry_after: Option<Span>,
    },
    /// The instance answered that the request is wrong.
    Refused,
    /// The instance answered that it failed.
    Broken,
    /// No reply within the deadline of every member.
    TooSlow,
    /// An answer whose outputs do not have the batch's rows.
    NotBatched,
}
