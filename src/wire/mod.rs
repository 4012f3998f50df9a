//! The wire: protobuf and JSON to calls and back, and what a fault is called on each of them.

pub mod frame;
pub mod pb;
pub mod status;
pub mod v2;
