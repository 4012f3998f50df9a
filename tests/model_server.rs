//! The model server keeps what it promises to the tests that rely on it.

#[path = "model_server/grpc.rs"]
mod grpc;
#[path = "model_server/http.rs"]
mod http;
#[path = "support/model_server/mod.rs"]
pub mod model_server;
