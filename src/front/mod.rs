//! The fronts: listeners, the gRPC and HTTP services, the admin pages.
//!
//! One service answers every connection of the two call listeners, whichever of them it came to:
//! `application/grpc` goes to [`grpc`], everything else to HTTP routes. The admin listener has
//! routes of its own.

mod accept;
pub mod admin;
mod find;
pub mod grpc;
pub mod http;
mod listener;
mod pace;
mod reload;
mod request_id;
mod retry;
mod server_timing;
mod socket;
mod state;
mod tenant;
mod timeout_header;
mod visit;

pub use accept::Acceptor;
pub use listener::Listener;
pub use reload::{ConfigStatus, ReloadError, ReloadRequest, Reloaded, Reloads};
pub use state::Front;
