//! The batchers that others run, as [`System`](super::System)s: each is a [`Rule`] of when a batch
//! goes and how large, on one queue in front of all instances ([`Central`]) or on one queue per
//! instance behind a router ([`Routed`]).
//!
//! They know the largest batch and nothing of failures: the calls of a failed batch are failed.

mod central;
mod routed;
mod rules;
mod threshold;

pub use central::{Central, Choice, Flight, Rule, Standing};
pub use routed::{Routed, Router};
pub use rules::{Additive, Agent, FixedDelay};
pub use threshold::Threshold;
