//! The engine with scripted instances and paused time: what callers see when things go wrong.

mod script;
mod stories;
