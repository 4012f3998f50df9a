//! OpenAI's REST: embeddings, and as much of chat and completions as forwarding them needs.
//!
//! Fields that are not understood here go through untouched, and a body that need not change is
//! forwarded byte for byte.
//!
//! Both sides are here: a front parses requests and writes replies, a client of an instance writes
//! requests and parses replies.

mod embeddings;
mod encoding;
mod generation;

pub use embeddings::{
    ParsedEmbeddings, parse_embeddings, parse_embeddings_reply, write_embeddings_reply,
    write_embeddings_request,
};
pub use generation::{ParsedGeneration, parse_generation};
