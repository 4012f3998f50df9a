//! Lists of items: KServe v1 and OpenAI embeddings.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail the test")]

use batchwise::call::{Answer, ItemsAnswer, ItemsRequest, ItemsRoute, Usage, Work};
use batchwise::instance::{Failure, Instance as _, KserveV1, OpenAi};
use batchwise::lane::Blame;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;

use crate::scripted::{Body, Scripted, body};
use crate::support::{blame, bounded, context, url};

/// A server that answers with the text that `answer` makes of path and body.
async fn server(answer: fn(&str, &str) -> (u16, String)) -> Scripted {
    Scripted::http(move |request| async move {
        let path = request.uri().path().to_owned();
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let (status, text) = answer(&path, std::str::from_utf8(&asked).unwrap());
        reply(status, text)
    })
    .await
}

fn reply(status: u16, text: String) -> Response<Body> {
    Response::builder().status(status).body(body(text)).unwrap()
}

fn items(route: ItemsRoute, items: &[&'static str], body: Option<&'static str>) -> Work {
    Work::Items(ItemsRequest {
        route,
        items: items.iter().map(|item| Bytes::from_static(item.as_bytes())).collect(),
        options: Bytes::from_static(br#""k":1"#),
        body: body.map(|body| Bytes::from_static(body.as_bytes())),
    })
}

fn answer(outcome: Result<Answer, Failure>) -> ItemsAnswer {
    match outcome {
        Ok(Answer::Items(answer)) => answer,
        other => panic!("no answer with items: {other:?}"),
    }
}

#[tokio::test]
async fn predictions_come_back_in_order() {
    let server = server(|path, asked| {
        assert_eq!(path, "/v1/models/m:predict");
        assert_eq!(asked, r#"{"instances":[[1],[2]],"k":1}"#);
        (200, r#"{"predictions": [ [1.50], {"a":2} ]}"#.to_owned())
    })
    .await;
    let instance = KserveV1::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Predict, &["[1]", "[2]"], None);
    let answer = answer(bounded(instance.run(work, context())).await);
    assert_eq!(answer.items, ["[1.50]", r#"{"a":2}"#]);
    assert_eq!(answer.body.unwrap(), r#"{"predictions": [ [1.50], {"a":2} ]}"#);
}

#[tokio::test]
async fn a_body_that_need_not_change_goes_byte_for_byte() {
    let server = server(|_, asked| {
        assert_eq!(asked, r#"{ "instances" : [[1]] , "k":1}"#);
        (200, r#"{"predictions":[0]}"#.to_owned())
    })
    .await;
    let instance = KserveV1::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Predict, &["[1]"], Some(r#"{ "instances" : [[1]] , "k":1}"#));
    assert_eq!(answer(bounded(instance.run(work, context())).await).items, ["0"]);
}

#[tokio::test]
async fn a_wrong_count_and_garbage_are_told_apart() {
    let run = async |answer| {
        let server = server(answer).await;
        let instance = KserveV1::new(url(server.address), "m", None);
        let work = items(ItemsRoute::Predict, &["[1]", "[2]"], None);
        blame(bounded(instance.run(work, context())).await)
    };
    assert_eq!(run(|_, _| (200, r#"{"predictions":[1]}"#.to_owned())).await, Blame::NotBatched);
    assert_eq!(run(|_, _| (200, r#"{"predictions":[1,2,3]}"#.to_owned())).await, Blame::NotBatched);
    assert_eq!(run(|_, _| (200, "{}".to_owned())).await, Blame::Broken);
    assert_eq!(run(|_, _| (400, "{}".to_owned())).await, Blame::Refused);
    assert_eq!(run(|_, _| (500, "{}".to_owned())).await, Blame::Broken);
}

#[tokio::test]
async fn a_model_says_whether_it_is_ready() {
    let server = server(|path, _| match path {
        "/v1/models/ready" => (200, r#"{"name":"ready","ready":true}"#.to_owned()),
        "/v1/models/loading" => (200, r#"{"name":"loading","ready":false}"#.to_owned()),
        _ => (404, r#"{"error":"no such model"}"#.to_owned()),
    })
    .await;
    let probe = async |model| {
        let instance = KserveV1::new(url(server.address), model, None);
        bounded(instance.probe()).await
    };
    assert_eq!(probe("ready").await, Ok(()));
    assert!(probe("loading").await.is_err());
    assert!(probe("absent").await.is_err());
}

#[tokio::test]
async fn embeddings_are_put_in_the_order_of_their_items() {
    let server = server(|path, asked| {
        assert_eq!(path, "/v1/embeddings");
        assert_eq!(asked, r#"{"model":"m","input":["a","b"],"k":1}"#);
        let data = r#"{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}"#;
        let usage = r#"{"prompt_tokens":3,"total_tokens":4}"#;
        (200, format!(r#"{{"data":[{data}],"usage":{usage}}}"#))
    })
    .await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Embeddings, &["\"a\"", "\"b\""], None);
    let answer = answer(bounded(instance.run(work, context())).await);
    assert_eq!(answer.items, ["[1]", "[2]"]);
    assert_eq!(answer.usage, Some(Usage { prompt_tokens: 3, total_tokens: 4 }));
}

#[tokio::test]
async fn a_refused_batch_of_embeddings_keeps_the_instances_words() {
    let server = server(|_, _| (422, r#"{"error":{"message":"input too long"}}"#.to_owned())).await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Embeddings, &["\"a\""], None);
    let failure = bounded(instance.run(work, context())).await.unwrap_err();
    assert_eq!((failure.blame, &*failure.fault.message), (Blame::Refused, "input too long"));
    let refusal = failure.fault.refusal.unwrap();
    assert_eq!(refusal.http, Some(StatusCode::UNPROCESSABLE_ENTITY));
}

#[tokio::test]
async fn a_batch_of_another_kind_is_our_own_mistake() {
    let server = server(|_, _| (200, String::new())).await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Predict, &["1"], None);
    let failure = bounded(instance.run(work, context())).await.unwrap_err();
    assert_eq!(failure.fault.kind, batchwise::call::FaultKind::Internal);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn rankings_are_put_in_the_order_of_their_documents() {
    let server = server(|path, asked| {
        assert_eq!(path, "/v2/rerank");
        assert_eq!(asked, r#"{"model":"m","documents":["a","b"],"k":1}"#);
        let best = r#"{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":0.1}"#;
        (200, format!(r#"{{"results":[{best}],"usage":{{"total_tokens":4}}}}"#))
    })
    .await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let work = items(ItemsRoute::Rerank("/v2/rerank"), &["\"a\"", "\"b\""], None);
    let answer = answer(bounded(instance.run(work, context())).await);
    assert_eq!(
        answer.items,
        [r#"{"index":0,"relevance_score":0.1}"#, r#"{"index":1,"relevance_score":0.9}"#]
    );
    assert_eq!(answer.usage, Some(Usage { prompt_tokens: 4, total_tokens: 4 }));
}

#[tokio::test]
async fn a_bare_list_of_another_length_says_that_the_model_does_not_answer_item_by_item() {
    let run = async |answer| {
        let server = server(answer).await;
        let instance = OpenAi::new(url(server.address), "m", None);
        let work = items(ItemsRoute::Inputs("/embed"), &["\"a\"", "\"b\""], None);
        blame(bounded(instance.run(work, context())).await)
    };
    assert_eq!(run(|_, _| (200, "[[1.0]]".to_owned())).await, Blame::NotBatched);
    assert_eq!(run(|_, _| (200, r#"{"error":"x"}"#.to_owned())).await, Blame::Broken);
    assert_eq!(run(|_, _| (422, r#"{"error":"x"}"#.to_owned())).await, Blame::Refused);
}
