//! A simulated world around the pure lane: seeded arrivals, instances with a service-time law and
//! faults, callers that leave. Every step checks the lane's invariants; a failure prints its seed.
//!
//! `SEED=7 cargo test --test simulation` replays one world.

mod abandoned;
mod elsewhere;
mod oracle;
mod order;
mod random;
mod scenarios;
mod world;
