//! Lists of texts besides embeddings: rerank, scores, classes, and the routes that Text Embeddings
//! Inference has of its own.
//!
//! They differ in the names of their fields, and in little else: a list goes in, and for each member
//! something comes back. What else a request says has to be the same for calls that share one.

mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use reply::{ReplyHead, parse_items_reply, write_items_reply};
pub use request::{
    ItemsPath, ParsedItems, ReplyTerms, Understood, parse_items, write_items_request,
};

use crate::call::ItemsRoute;

/// What the replies of a route look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReplyForm {
    /// The field that holds the list; `None` where the list is all there is.
    list: Option<&'static str>,
    /// Whether each member says in field `index` which item it is for.
    is_indexed: bool,
    /// Whether the members are in the order of their scores, best first.
    is_ranked: bool,
}

fn reply_form(route: ItemsRoute) -> ReplyForm {
    let form = |list, is_indexed, is_ranked| ReplyForm { list, is_indexed, is_ranked };
    match route {
        ItemsRoute::Rerank(_) => form(Some("results"), true, true),
        ItemsRoute::RerankTexts => form(None, true, true),
        ItemsRoute::Inputs(_) | ItemsRoute::PredictInputs => form(None, false, false),
        ItemsRoute::Score(_) | ItemsRoute::ScorePairs(_) | ItemsRoute::Classify => {
            form(Some("data"), true, false)
        }
        ItemsRoute::Predict => form(Some("predictions"), false, false),
        ItemsRoute::Embeddings => form(Some("data"), true, false),
    }
}

/// The field of a reply that holds its list; `None` where the list is all there is.
#[must_use]
pub fn reply_list(route: ItemsRoute) -> Option<&'static str> {
    reply_form(route).list
}
