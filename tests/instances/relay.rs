//! Requests that are forwarded whole and answered as they come.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail the test")]

use std::sync::{Arc, Mutex};

use batchwise::call::{Answer, RelayAnswer, RelayRequest, Work};
use batchwise::instance::{Failure, Instance as _, OpenAi};
use batchwise::lane::Blame;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;

use crate::scripted::{Scripted, body, nobody};
use crate::support::{blame, bounded, context, url};

const BODY: &str = r#"{"model":"m", "stream" : true,"unknown":[1.00]}"#;

fn work() -> Work {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer key"));
    headers.insert("connection", HeaderValue::from_static("x-hop"));
    headers.insert("x-hop", HeaderValue::from_static("1"));
    let path = "/v1/chat/completions";
    Work::Relay(RelayRequest {
        affinity: None,
        path,
        headers,
        body: Bytes::from_static(BODY.as_bytes()),
        stream: true,
        can_be_named: true,
        with_usage: None,
    })
}

fn relayed(outcome: Result<Answer, Failure>) -> RelayAnswer {
    match outcome {
        Ok(Answer::Relay(answer)) => answer,
        other => panic!("no relayed answer: {other:?}"),
    }
}

type Pieces = mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>;

/// A server that answers one request with the pieces that are sent to it.
async fn streaming() -> (Scripted, Pieces) {
    let (pieces, receiver) = mpsc::channel(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let server = Scripted::http(move |request| {
        let receiver = Arc::clone(&receiver);
        async move {
            drop(request.into_body().collect().await);
            let mut pieces = receiver.lock().unwrap().take().unwrap();
            let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
            let reply = Response::builder().header("content-type", "text/event-stream");
            reply.body(StreamBody::new(stream).boxed_unsync()).unwrap()
        }
    })
    .await;
    (server, pieces)
}

fn piece(text: &'static str) -> Result<Frame<Bytes>, std::io::Error> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

async fn next(answer: &mut RelayAnswer) -> Option<Bytes> {
    bounded(answer.body.frame()).await.map(|frame| frame.unwrap().into_data().unwrap())
}

#[tokio::test]
async fn a_request_goes_byte_for_byte_with_its_headers() {
    let server = Scripted::http(|request| async move {
        assert_eq!(request.uri().path(), "/v1/chat/completions");
        let headers = request.headers().clone();
        assert_eq!(headers["authorization"], "Bearer key");
        assert_eq!(headers["x-request-id"], "batch-1");
        assert_eq!(headers["content-type"], "application/json");
        assert!(!headers.contains_key("x-hop") && !headers.contains_key("connection"));
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), BODY);
        let reply = Response::builder().status(201).header("openai-model", "x");
        reply.header("keep-alive", "timeout=5").body(body("whole")).unwrap()
    })
    .await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let answer = relayed(bounded(instance.run(work(), context())).await);
    assert_eq!(
        (answer.status, &answer.headers["openai-model"]),
        (StatusCode::CREATED, &HeaderValue::from_static("x"))
    );
    assert!(!answer.headers.contains_key("keep-alive"));
    assert_eq!(bounded(answer.body.collect()).await.unwrap().to_bytes(), "whole");
}

#[tokio::test]
async fn events_are_handed_on_as_they_come() {
    let (server, pieces) = streaming().await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let mut answer = relayed(bounded(instance.run(work(), context())).await);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        pieces.send(piece(event)).await.unwrap();
        assert_eq!(next(&mut answer).await.unwrap(), event);
    }
    drop(pieces);
    assert!(next(&mut answer).await.is_none());
}

#[tokio::test]
async fn a_stream_outlives_its_instance() {
    let (server, pieces) = streaming().await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let mut answer = relayed(bounded(instance.run(work(), context())).await);
    drop(instance);
    pieces.send(piece("data: late\n\n")).await.unwrap();
    assert_eq!(next(&mut answer).await.unwrap(), "data: late\n\n");
}

#[tokio::test]
async fn a_stream_without_a_reader_is_cancelled() {
    let (server, pieces) = streaming().await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let mut answer = relayed(bounded(instance.run(work(), context())).await);
    pieces.send(piece("data: 1\n\n")).await.unwrap();
    assert!(next(&mut answer).await.is_some());
    drop(answer);
    bounded(pieces.closed()).await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error_and_no_end() {
    let (server, pieces) = streaming().await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let mut answer = relayed(bounded(instance.run(work(), context())).await);
    pieces.send(piece("data: 1\n\n")).await.unwrap();
    assert!(next(&mut answer).await.is_some());
    pieces.send(Err(std::io::Error::other("crash"))).await.unwrap();
    let frame = bounded(answer.body.frame()).await;
    assert!(matches!(frame, Some(Err(_))), "{frame:?}");
}

/// What a relay gives when its instance answers so; the server lives as long as the first value.
async fn answered(status: u16, text: &'static str) -> (Scripted, Result<Answer, Failure>) {
    let server = Scripted::http(move |_| async move {
        let reply = Response::builder().status(status).header("content-type", "application/json");
        reply.header("retry-after", "7").body(body(text)).unwrap()
    })
    .await;
    let instance = OpenAi::new(url(server.address), "m", None);
    let outcome = bounded(instance.run(work(), context())).await;
    (server, outcome)
}

#[tokio::test]
async fn refusals_and_overload_are_handed_on_as_they_are() {
    for status in [400, 401, 404, 429, 503] {
        let (_server, outcome) = answered(status, r#"{"error":{"message":"no"}}"#).await;
        let answer = relayed(outcome);
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.headers["retry-after"], "7");
        let body = bounded(answer.body.collect()).await.unwrap().to_bytes();
        assert_eq!(body, r#"{"error":{"message":"no"}}"#);
    }
}

#[tokio::test]
async fn an_instances_own_failure_counts_and_its_words_are_kept() {
    let (_server, outcome) = answered(500, r#"{"error":{"message":"out of memory"}}"#).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.blame, Blame::Broken);
    let refusal = failure.fault.refusal.unwrap();
    assert_eq!(refusal.http, Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(refusal.body.unwrap(), r#"{"error":{"message":"out of memory"}}"#);
    assert_eq!(refusal.content_type.as_deref(), Some("application/json"));
}

#[tokio::test]
async fn nobody_there_is_the_connections_fault() {
    let instance = OpenAi::new(url(nobody().await), "m", None);
    assert_eq!(blame(bounded(instance.run(work(), context())).await), Blame::Connection);
}

#[tokio::test]
async fn any_answer_of_a_server_that_works_is_up() {
    let probe = async |health: u16, models: u16, path: Option<&str>| {
        let server = Scripted::http(move |request| async move {
            let status = match request.uri().path() {
                "/health" => health,
                "/v1/models" => models,
                _ => 404,
            };
            Response::builder().status(status).body(body("")).unwrap()
        })
        .await;
        let path = path.map(str::to_owned);
        bounded(OpenAi::new(url(server.address), "m", path).probe()).await.is_ok()
    };
    assert!(probe(200, 500, None).await);
    assert!(probe(404, 401, None).await);
    assert!(!probe(404, 500, None).await);
    assert!(!probe(503, 200, None).await);
    assert!(probe(503, 200, Some("/v1/models")).await);
    assert!(!probe(200, 401, Some("/v1/models")).await);
}
