//! What is fuzzed: a function for every decoder that sees bytes of a peer or a user.
//!
//! Each takes any bytes and panics when a property does not hold: what is accepted can be written and
//! read again, tensors have the bytes of their shapes, a batch splits into its calls, nothing depends
//! on how bytes were cut into segments, and what is refused is told. Panics of the decoders
//! themselves are found on the way.
//!
//! `tests/fuzz` replays the corpora and mutations of them; `scripts/fuzz` looks for more with libFuzzer.

mod check;
mod declared;
mod embedded_text;
mod embeddings_reply;
mod embeddings_request;
mod event_stream;
mod events;
mod front_grpc;
mod front_http;
mod generation_request;
mod grpc_frames;
mod headers;
mod input;
mod instance_reply;
mod items_reply;
mod items_request;
mod kserve_grpc_reply;
mod kserve_grpc_request;
mod kserve_http_reply;
mod kserve_http_request;
mod models_toml;
mod predict_reply;
mod predict_request;
mod random;
mod raw_tensor;
mod site;

pub use embedded_text::embedded_text;
pub use embeddings_reply::embeddings_reply;
pub use embeddings_request::embeddings_request;
pub use event_stream::event_stream;
pub use front_grpc::front_grpc;
pub use front_http::front_http;
pub use generation_request::generation_request;
pub use grpc_frames::grpc_frames;
pub use headers::headers;
pub use instance_reply::instance_reply;
pub use items_reply::items_reply;
pub use items_request::items_request;
pub use kserve_grpc_reply::kserve_grpc_reply;
pub use kserve_grpc_request::kserve_grpc_request;
pub use kserve_http_reply::kserve_http_reply;
pub use kserve_http_request::kserve_http_request;
pub use models_toml::models_toml;
pub use predict_reply::predict_reply;
pub use predict_request::predict_request;
pub use random::Random;
pub use raw_tensor::raw_tensor;

/// A target: any bytes in, a panic when a property does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus and of its binary, too.
pub const TARGETS: [(&str, Target); 20] = [
    ("embedded_text", embedded_text),
    ("embeddings_reply", embeddings_reply),
    ("embeddings_request", embeddings_request),
    ("event_stream", event_stream),
    ("front_grpc", front_grpc),
    ("front_http", front_http),
    ("generation_request", generation_request),
    ("grpc_frames", grpc_frames),
    ("headers", headers),
    ("instance_reply", instance_reply),
    ("items_reply", items_reply),
    ("items_request", items_request),
    ("kserve_grpc_reply", kserve_grpc_reply),
    ("kserve_grpc_request", kserve_grpc_request),
    ("kserve_http_reply", kserve_http_reply),
    ("kserve_http_request", kserve_http_request),
    ("models_toml", models_toml),
    ("predict_reply", predict_reply),
    ("predict_request", predict_request),
    ("raw_tensor", raw_tensor),
];
