//! The Open Inference Protocol's messages to calls and back.
//!
//! Raw tensor contents never pass through the protobuf codec: they are cut out of the message as
//! slices of the received buffers, and appended to the encoded head as the tensors' own segments.
//! The codec sees the small rest.

mod contents;
mod message;
mod parameters;
mod reply;
mod request;
mod weight;

pub use reply::{decode_infer_reply, encode_infer_reply, encode_stream_error, encode_stream_reply};
pub use request::{DecodedInfer, decode_infer_request, encode_infer_request};
pub use weight::decoded_bytes;

#[cfg(test)]
mod tests;
