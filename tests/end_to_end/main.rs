//! The whole proxy on the loopback, between real clients and fault-injecting model servers.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/model_server/mod.rs"]
pub mod model_server;

mod bad_input;
mod batch_api;
mod batch_api_crash;
mod cancel;
mod chats;
mod crowds;
mod everything;
mod faults;
mod hostile;
mod http;
mod lists;
mod operations;
mod overload;
mod raw;
mod reload;
mod routing;
mod spans;
mod stage;
mod streams;
mod wire;
