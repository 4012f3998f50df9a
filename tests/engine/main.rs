//! The engine with scripted instances and paused time: what callers see when things go wrong.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod changes;
mod hedges;
mod script;
mod stories;
