//! Clients of instances against servers that answer, refuse, break off and vanish.

#[path = "instances/abort.rs"]
mod abort;
#[path = "instances/faulty.rs"]
mod faulty;
#[path = "instances/grpc.rs"]
mod grpc;
#[path = "instances/items.rs"]
mod items;
#[path = "instances/kserve_http.rs"]
mod kserve_http;
#[path = "support/model_server/mod.rs"]
pub mod model_server;
#[path = "instances/relay.rs"]
mod relay;
#[path = "instances/scripted.rs"]
mod scripted;
#[path = "instances/stale.rs"]
mod stale;
#[path = "instances/support.rs"]
mod support;
