//! The wire: protobuf and JSON to calls and back, and what a fault is called on each of them.

pub mod body;
mod declared;
mod depth;
mod fields;
pub mod frame;
pub mod gauges;
pub mod intake;
pub mod json;
pub mod openai;
pub mod parameters;
pub mod pb;
pub mod predict;
pub mod problem;
mod reply_error;
pub mod status;
pub mod v2;

pub use declared::DeclaredInput;
pub use reply_error::ReplyError;
