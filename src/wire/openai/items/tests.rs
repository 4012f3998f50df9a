//! Requests and replies of every form.

use super::*;
use crate::call::{Fault, ItemsAnswer, Usage};
use bytes::Bytes;

fn understood(path: ItemsPath, text: &str) -> Result<Understood, Fault> {
    parse_items(path, &Bytes::copy_from_slice(text.as_bytes()))
}

fn parsed(path: ItemsPath, text: &str) -> ParsedItems {
    match understood(path, text).unwrap() {
        Understood::Items(parsed) => parsed,
        Understood::Whole => panic!("not understood: {text}"),
    }
}

/// What an instance gets of a request, as it came and put together again.
fn written(path: ItemsPath, text: &str) -> (Bytes, Bytes) {
    let mut request = parsed(path, text).request;
    let as_it_came = write_items_request(&request, "n").to_bytes();
    request.body = None;
    (as_it_came, write_items_request(&request, "n").to_bytes())
}

const RERANK: ItemsPath = ItemsPath::Rerank("/v1/rerank");
const SCORE: ItemsPath = ItemsPath::Score("/score");
const EMBED: ItemsPath = ItemsPath::Inputs("/embed");

#[test]
fn a_request_goes_as_it_came_or_is_put_together_again() {
    for (path, text, again) in [
        (
            RERANK,
            r#"{"query":"q", "documents":["a",{"text" : "b"}],"model":"m","x":1.00}"#,
            r#"{"model":"n","documents":["a",{"text" : "b"}],"query":"q","x":1.00}"#,
        ),
        (
            ItemsPath::AnyRerank,
            r#"{"query":"q","texts":["a","b"],"raw_scores":true}"#,
            r#"{"texts":["a","b"],"query":"q","raw_scores":true}"#,
        ),
        (
            ItemsPath::AnyRerank,
            r#"{"model":"m","query":"q","documents":["a"]}"#,
            r#"{"model":"n","documents":["a"],"query":"q"}"#,
        ),
        (
            SCORE,
            r#"{"model":"m","text_1":"q","text_2":"a","x":[]}"#,
            r#"{"model":"n","text_2":["a"],"text_1":"q","x":[]}"#,
        ),
        (
            SCORE,
            r#"{"model":"m","text_1":["q","r,\"]"],"text_2":["a","b"],"x":[]}"#,
            r#"{"model":"n","text_1":["q","r,\"]"],"text_2":["a","b"],"x":[]}"#,
        ),
        (ItemsPath::Classify, r#"{"model":"m","input":"a"}"#, r#"{"model":"n","input":["a"]}"#),
        (EMBED, r#"{"inputs":"a","truncate":true}"#, r#"{"inputs":["a"],"truncate":true}"#),
        (EMBED, r#"{"inputs":[[1,2],"b"]}"#, r#"{"inputs":[[1,2],"b"]}"#),
        (ItemsPath::Predict, r#"{"inputs":[["a"],["b","c"]]}"#, r#"{"inputs":[["a"],["b","c"]]}"#),
    ] {
        let (as_it_came, put_together) = written(path, text);
        assert_eq!(as_it_came, text);
        assert_eq!(put_together, again);
    }
}

#[test]
fn what_is_wanted_less_of_is_asked_for_whole() {
    let text =
        r#"{"model":"m","query":"q","documents":["a","b"],"top_n":1,"return_documents":true}"#;
    let ParsedItems { request, terms, .. } = parsed(RERANK, text);
    assert_eq!(terms.top_n, Some(1));
    assert_eq!(
        write_items_request(&request, "n").to_bytes(),
        r#"{"model":"n","documents":["a","b"],"query":"q","return_documents":true}"#
    );
    let all = r#"{"model":"m","query":"q","documents":["a"],"top_n":0}"#;
    let ParsedItems { request, terms, .. } = parsed(RERANK, all);
    assert_eq!((terms.top_n, request.body.unwrap()), (None, Bytes::from_static(all.as_bytes())));
    for (text, again) in [
        (r#"{"inputs":"a"}"#, r#"{"inputs":[["a"]]}"#),
        (r#"{"inputs":["a","b"]}"#, r#"{"inputs":[["a","b"]]}"#),
    ] {
        let ParsedItems { request, terms, model } = parsed(ItemsPath::Predict, text);
        assert!(terms.is_single && model.is_none());
        assert_eq!(write_items_request(&request, "n").to_bytes(), again);
    }
}

#[test]
fn what_is_not_understood_is_left_to_the_instance() {
    for (path, text) in [
        (RERANK, r#"{"model":"m","query":"q","documents":{"content":[]}}"#),
        (SCORE, r#"{"model":"m","queries":"q","documents":["a"]}"#),
        (SCORE, r#"{"model":"m","text_1":["q"],"text_2":["a","b"]}"#),
        (SCORE, r#"{"model":"m","text_1":"q","text_2":{"content":[]}}"#),
        (ItemsPath::Classify, r#"{"model":"m","messages":[]}"#),
    ] {
        assert!(matches!(understood(path, text), Ok(Understood::Whole)), "{text}");
    }
}

#[test]
fn wrong_requests_name_the_field() {
    for (path, text, field) in [
        (RERANK, "{", "body"),
        (RERANK, r#"{"query":"q","documents":["a"]}"#, "model"),
        (RERANK, r#"{"model":"m","documents":["a"]}"#, "query"),
        (RERANK, r#"{"model":"m","query":"q"}"#, "documents"),
        (RERANK, r#"{"model":"m","query":"q","documents":[]}"#, "documents"),
        (RERANK, r#"{"model":"m","query":"q","documents":"a"}"#, "documents"),
        (RERANK, r#"{"model":"m","query":"q","documents":["a",1]}"#, "documents[1]"),
        (RERANK, r#"{"model":"m","query":"q","documents":["a"],"top_n":-1}"#, "top_n"),
        (ItemsPath::AnyRerank, r#"{"texts":["a"]}"#, "query"),
        (EMBED, "{}", "inputs"),
        (EMBED, r#"{"inputs":[]}"#, "inputs"),
        (EMBED, r#"{"inputs":["a",7]}"#, "inputs[1]"),
        (EMBED, r#"{"inputs":"a","model":7}"#, "model"),
        (ItemsPath::Predict, r#"{"inputs":["a","b","c"]}"#, "inputs"),
        (ItemsPath::Predict, r#"{"inputs":[["a"],"b"]}"#, "inputs"),
        (ItemsPath::Classify, r#"{"input":["a"]}"#, "model"),
    ] {
        let fault = understood(path, text).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some(field), "{text}");
    }
}

const HEAD: ReplyHead<'_> = ReplyHead { id: "1", created: 7, model: "m", upstream_name: "n" };

fn reply(route: ItemsRoute, answer: &ItemsAnswer, terms: ReplyTerms) -> String {
    let reply = write_items_reply(route, HEAD, answer, terms).unwrap().to_bytes();
    String::from_utf8(reply.to_vec()).unwrap()
}

fn answer(route: ItemsRoute, body: &'static str, rows: usize) -> ItemsAnswer {
    let body = Bytes::from_static(body.as_bytes());
    let (items, usage) = parse_items_reply(route, &body, rows).unwrap();
    ItemsAnswer { items, usage, body: Some(body) }
}

const RANKED: &str = r#"{"id":"x", "results":[{"index":2,"relevance_score":0.9,"document":{"text":"c"}},
    {"index":0,"relevance_score":0.50},{"relevance_score":1e-1,"index":1}],"model":"n","usage":{"total_tokens":9}}"#;

#[test]
fn a_ranking_is_cut_and_sorted_by_us() {
    let route = ItemsRoute::Rerank("/v1/rerank");
    let whole = answer(route, RANKED, 3);
    assert_eq!(whole.usage, Some(Usage { prompt_tokens: 9, total_tokens: 9 }));
    assert_eq!(whole.items[1], r#"{"relevance_score":1e-1,"index":1}"#);
    let all = ReplyTerms::default();
    assert_eq!(reply(route, &whole, all), RANKED.replace(r#""n""#, r#""m""#));
    let best = ReplyTerms { top_n: Some(1), ..all };
    let expected = r#"{"id":"x", "results":[{"index":2,"relevance_score":0.9,"document":{"text":"c"}}],"model":"m","usage":{"total_tokens":9}}"#;
    assert_eq!(reply(route, &whole, best), expected);
    // As a part of a batch its documents were others, and in between.
    let part = ItemsAnswer { items: whole.items[1..].to_vec(), usage: whole.usage, body: None };
    let expected = r#"{"id":"rerank-1","model":"m","results":[{"index":1,"relevance_score":0.9,"document":{"text":"c"}},{"relevance_score":1e-1,"index":0}],"usage":{"prompt_tokens":9,"total_tokens":9}}"#;
    assert_eq!(reply(route, &part, all), expected);
}

#[test]
fn lists_that_are_all_there_is_stay_so() {
    let route = ItemsRoute::RerankTexts;
    let text = r#"[{"index":1,"score":2.5,"text":"b"},{"index":0,"score":-1}]"#;
    let whole = answer(route, text, 2);
    assert_eq!(reply(route, &whole, ReplyTerms::default()), text);
    let part = ItemsAnswer { body: None, items: whole.items.into_iter().rev().collect(), ..whole };
    let expected = r#"[{"index":0,"score":2.5,"text":"b"},{"index":1,"score":-1}]"#;
    assert_eq!(reply(route, &part, ReplyTerms::default()), expected);
    let vectors = answer(ItemsRoute::Inputs("/embed"), "[[1.0], [2]]", 2);
    let part = ItemsAnswer { body: None, ..vectors };
    assert_eq!(reply(ItemsRoute::Inputs("/embed"), &part, ReplyTerms::default()), "[[1.0],[2]]");
    let single = ReplyTerms { is_single: true, ..ReplyTerms::default() };
    let classes = answer(ItemsRoute::PredictInputs, r#"[[{"label":"a","score":1}]]"#, 1);
    assert_eq!(reply(ItemsRoute::PredictInputs, &classes, single), r#"[{"label":"a","score":1}]"#);
}

#[test]
fn members_are_numbered_anew_for_each_caller() {
    let body = r#"{"data":[{"index":1,"object":"score","score":0.5},{"score":2.0}]}"#;
    let bytes = Bytes::from_static(body.as_bytes());
    assert!(parse_items_reply(ItemsRoute::Score("/score"), &bytes, 2).is_err(), "1 is there twice");
    let body = r#"{"data":[{"index":0,"score":0.5},{ "score":2.0},{"label":"x"}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    let whole = answer(ItemsRoute::Classify, body, 3);
    let part = ItemsAnswer { items: whole.items[1..].to_vec(), body: None, ..whole };
    let expected = r#"{"id":"classify-1","object":"list","created":7,"model":"m","data":[{"index":0, "score":2.0},{"index":1,"label":"x"}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#;
    assert_eq!(reply(ItemsRoute::Classify, &part, ReplyTerms::default()), expected);
}

#[test]
fn replies_of_another_length_or_form_are_refused() {
    for (route, body) in [
        (ItemsRoute::Rerank("/rerank"), r#"{"results":[{"index":0,"relevance_score":1}]}"#),
        (ItemsRoute::Rerank("/rerank"), r#"{"results":[{"index":0},{"index":1}]}"#),
        (
            ItemsRoute::Rerank("/rerank"),
            r#"{"results":[{"relevance_score":1},{"relevance_score":1}]}"#,
        ),
        (ItemsRoute::Rerank("/rerank"), r#"{"data":[]}"#),
        (ItemsRoute::Rerank("/rerank"), "[1,2]"),
        (ItemsRoute::RerankTexts, r#"[{"index":0,"score":1},{"index":2,"score":1}]"#),
        (ItemsRoute::Inputs("/embed"), "[[1],[2],[3]]"),
        (ItemsRoute::Inputs("/embed"), r#"{"error":"x"}"#),
        (ItemsRoute::Score("/score"), r#"{"data":[1,2]}"#),
        (ItemsRoute::Score("/score"), "\u{1}{]garbage"),
    ] {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        assert!(parse_items_reply(route, &bytes, 2).is_err(), "{body}");
    }
}
