//! Replies of instances to requests with lists of texts: the first line of the input names the route and the
//! number of texts that were sent, the rest is the body.

use batchwise::call::{ItemsAnswer, ItemsRoute};
use batchwise::wire::openai::{ReplyHead, ReplyTerms, parse_items_reply, write_items_reply};
use bytes::Bytes;

use super::{check, input};

const HEAD: ReplyHead<'_> = ReplyHead { id: "1", created: 7, model: "theirs", upstream_name: "m" };

/// See the module.
pub fn items_reply(data: &[u8]) {
    let (line, body) = input::first_line_text(data);
    let (route, rows) = line.split_once(' ').unwrap_or((line, "1"));
    let route = match route {
        "texts" => ItemsRoute::RerankTexts,
        "score" => ItemsRoute::Score("/score"),
        "classify" => ItemsRoute::Classify,
        "inputs" => ItemsRoute::Inputs("/embed"),
        "predict" => ItemsRoute::PredictInputs,
        _ => ItemsRoute::Rerank("/v1/rerank"),
    };
    let rows = usize::from(rows.trim().parse::<u16>().unwrap_or(1));
    let body = Bytes::copy_from_slice(body);
    let (items, usage) = match parse_items_reply(route, &body, rows) {
        Ok(reply) => reply,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(items.len(), rows);
    items.iter().for_each(|item| check::is_json(item));
    let whole = ItemsAnswer { items, usage, body: Some(body.clone()) };
    let written = write_items_reply(route, HEAD, &whole, ReplyTerms::default());
    let (items, _) = parse_items_reply(route, &written.expect("it is all there").to_bytes(), rows)
        .expect("what goes on can be read");
    assert_eq!(items, whole.items);
    cut(route, &whole);
    backwards(route, &ItemsAnswer { body: None, ..whole });
}

/// Of a ranking the best one is wanted.
fn cut(route: ItemsRoute, whole: &ItemsAnswer) {
    if !matches!(route, ItemsRoute::Rerank(_)) || whole.items.is_empty() {
        return;
    }
    let terms = ReplyTerms { top_n: Some(1), ..ReplyTerms::default() };
    let written = write_items_reply(route, HEAD, whole, terms).expect("each has a score");
    let written = written.to_bytes();
    check::is_json(&written);
    // Half a surrogate pair goes on as it came; it is JSON, but more than this reader takes.
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(&written) else { return };
    assert_eq!(document["results"].as_array().map(Vec::len), Some(1));
}

/// As the part of a batch in which its items stood the other way round.
fn backwards(route: ItemsRoute, answer: &ItemsAnswer) {
    let items: Vec<Bytes> = answer.items.iter().rev().cloned().collect();
    let rows = items.len();
    let turned = ItemsAnswer { items, ..answer.clone() };
    let written = write_items_reply(route, HEAD, &turned, ReplyTerms::default());
    let written = written.expect("each is what it was").to_bytes();
    check::is_json(&written);
    let (again, usage) =
        parse_items_reply(route, &written, rows).expect("what is written can be read");
    if !matches!(route, ItemsRoute::RerankTexts | ItemsRoute::Inputs(_) | ItemsRoute::PredictInputs)
    {
        assert_eq!(usage, turned.usage);
    }
    // Written again, nothing changes any more: each member has the index of its place.
    let again = ItemsAnswer { items: again, ..turned };
    let twice = write_items_reply(route, HEAD, &again, ReplyTerms::default());
    assert_eq!(twice.expect("as before").to_bytes(), written);
}
