//! Models that run inside this process: for a first run without a backend, for demonstrations and
//! for tests.
//!
//! - [`digits`]: a trained network that reads handwritten digits ([`OnnxModel`] runs it, and any
//!   other ONNX model of dense tensors);
//! - [`HashingEmbedder`]: text to vector by feature hashing, answering OpenAI embedding calls;
//! - [`Echo`]: a chat and completion model that says its prompt again, whole or streamed.
//!
//! Everything here is a function of its arguments: no clock, no task, no random number. Running a
//! model computes on the calling thread until it is done.

mod bad_request;
mod digits;
mod echo;
mod embeddings;
mod hashing;
mod onnx;

use bytes::Bytes;

pub use bad_request::BadRequest;
pub use digits::digits;
pub use echo::{Echo, EchoEvents};
pub use embeddings::{Embeddings, embed_items};
pub use hashing::{
    DEFAULT_DIMENSIONS, EmbeddingError, HashingEmbedder, MAX_DIMENSIONS, MAX_TEXT_BYTES,
    approximate_tokens,
};
pub use onnx::{LoadError, OnnxModel, RunError, TensorSignature};

/// A reply's JSON. The replies are structs of strings, integers and finite numbers, for which
/// serialising has no way to fail.
fn json(reply: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(reply).map(Bytes::from).unwrap_or_default()
}
