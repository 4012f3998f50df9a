//! OpenAI's REST, and what others have added to it: embeddings, rerank, scores and classes, and as much
//! of chat and completions as forwarding them needs.
//!
//! Fields that are not understood here go through untouched, and a body that need not change is
//! forwarded byte for byte.
//!
//! Both sides are here: a front parses requests and writes replies, a client of an instance writes
//! requests and parses replies.

mod embeddings;
mod encoding;
mod events;
mod generation;
mod items;
mod usage;

pub use embeddings::{
    ParsedEmbeddings, parse_embeddings, parse_embeddings_reply, write_embeddings_reply,
    write_embeddings_request,
};
pub use events::Events;
pub use generation::{ParsedGeneration, ServiceTier, parse_generation};
pub use items::{
    ItemsPath, ParsedItems, ReplyHead, ReplyTerms, Understood, parse_items, parse_items_reply,
    reply_list, write_items_reply, write_items_request,
};
pub use usage::{TokenUsage, UsageScan};
