//! The engine with scripted instances and paused time: what callers see when things go wrong.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod breakers;
mod changes;
mod hedges;
mod pressure;
mod rest;
mod script;
mod stories;
