//! Requests with lists of texts, but for embeddings: the first line of the input names the route, the rest
//! is the body.

use batchwise::call::ItemsRoute;
use batchwise::wire::openai::{
    ItemsPath, ParsedItems, Understood, parse_items, write_items_request,
};
use bytes::Bytes;

use super::{check, input};

/// See the module.
pub fn items_request(data: &[u8]) {
    let (line, body) = input::first_line_text(data);
    let path = match line.trim() {
        "rerank" => ItemsPath::Rerank("/v1/rerank"),
        "score" => ItemsPath::Score("/score"),
        "classify" => ItemsPath::Classify,
        "inputs" => ItemsPath::Inputs("/embed"),
        "predict" => ItemsPath::Predict,
        _ => ItemsPath::AnyRerank,
    };
    let body = Bytes::copy_from_slice(body);
    let ParsedItems { model, request, terms } = match parse_items(path, &body) {
        Ok(Understood::Items(parsed)) => parsed,
        Ok(Understood::Whole) => return check::is_object(&body),
        Err(fault) => return check::fault(&fault),
    };
    check::is_object(&body);
    assert!(model.is_none_or(|model| !model.is_empty()) && !request.items.is_empty());
    assert!(!terms.is_single || request.items.len() == 1);
    assert!(terms.top_n != Some(0));
    match request.route {
        // Pairs are put together of two places, a single text is put into a list.
        ItemsRoute::ScorePairs(_) | ItemsRoute::PredictInputs => {
            request.items.iter().for_each(|item| check::is_json(item));
        }
        _ => check::items(&request, &body),
    }
    if request.body.is_some() {
        assert_eq!(write_items_request(&request, "other").to_bytes(), body);
    }
    check::items_batches(&request, |part| {
        let written = write_items_request(part, "other \"name\"").to_bytes();
        check::is_json(&written);
        let Ok(Understood::Items(again)) = parse_items(path, &written) else {
            panic!("what is written cannot be read: {written:?}")
        };
        assert_eq!(again.request.route, request.route);
        assert!(again.terms.top_n.is_none() && !again.terms.is_single);
        assert_eq!(again.model.is_some(), request.route.names_model());
        again.request
    });
}
