//! The whole proxy on the loopback, between real clients and fault-injecting model servers.

#[path = "../support/model_server/mod.rs"]
pub mod model_server;

mod bad_input;
mod faults;
mod http;
mod operations;
mod stage;
mod wire;
