//! Clients of instances against servers that answer, refuse, break off and vanish.

#[path = "instances/grpc.rs"]
mod grpc;
#[path = "support/model_server/mod.rs"]
pub mod model_server;
#[path = "instances/scripted.rs"]
mod scripted;
#[path = "instances/support.rs"]
mod support;
