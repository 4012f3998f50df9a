//! Engines that have a call to stop a text get it, once nobody waits for the text any more.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use batchwise::call::{Answer, RelayRequest, Work};
use batchwise::instance::{Instance as _, OpenAi};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::scripted::{Scripted, body};
use crate::support::{bounded, context, url};

const BODY: &str = r#"{"model":"m", "stream" : true,"unknown":[1.00]}"#;

fn work(can_be_named: bool) -> Work {
    Work::Relay(RelayRequest {
        affinity: None,
        path: "/v1/chat/completions",
        headers: HeaderMap::new(),
        body: Bytes::from_static(BODY.as_bytes()),
        stream: true,
        can_be_named,
        with_usage: None,
    })
}

/// An engine that never ends a text by itself, and tells what it is asked.
struct Engine {
    _server: Scripted,
    instance: OpenAi,
    asked: mpsc::UnboundedReceiver<(String, String)>,
    /// Pieces of the texts: every text gets them all.
    pieces: tokio::sync::broadcast::Sender<&'static str>,
}

impl Engine {
    /// `answers`: whether it sends the head of a text.
    async fn new(owner: &'static str, answers: bool) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let (pieces, _) = tokio::sync::broadcast::channel(8);
        let texts = pieces.clone();
        let server = Scripted::http(move |request| {
            let (asks, texts) = (asks.clone(), texts.subscribe());
            async move {
                let path = request.uri().path().to_owned();
                let text = request.into_body().collect().await.unwrap().to_bytes();
                match path.as_str() {
                    "/v1/models" => {
                        let model = json!({"id": "m", "object": "model", "owned_by": owner});
                        let list = json!({"object": "list", "data": [model]});
                        return Response::new(body(list.to_string()));
                    }
                    _ => asks
                        .send((path.clone(), String::from_utf8(text.to_vec()).unwrap()))
                        .unwrap(),
                }
                if path == "/abort_request" {
                    return Response::new(body(""));
                }
                if !answers {
                    std::future::pending::<()>().await;
                }
                let stream = futures_util::stream::unfold(texts, async |mut texts| {
                    match texts.recv().await {
                        Ok("end") | Err(_) => None,
                        Ok(piece) => {
                            Some((Ok(Frame::data(Bytes::from_static(piece.as_bytes()))), texts))
                        }
                    }
                });
                let reply = Response::builder().header("content-type", "text/event-stream");
                reply.body(StreamBody::new(stream).boxed_unsync()).unwrap()
            }
        })
        .await;
        let instance = OpenAi::new(url(server.address), "m", None);
        bounded(instance.describe()).await.unwrap();
        Self { _server: server, instance, asked, pieces }
    }

    async fn next_asked(&mut self, path: &str) -> String {
        let (found, body) = bounded(self.asked.recv()).await.unwrap();
        assert_eq!(found, path, "{body}");
        body
    }

    /// The name of the next text; everything else of its request is as the caller sent it.
    async fn next_name(&mut self) -> String {
        let text = self.next_asked("/v1/chat/completions").await;
        let name =
            serde_json::from_str::<Value>(&text).unwrap()["rid"].as_str().unwrap().to_owned();
        assert_eq!(text, BODY.replacen('{', &format!("{{\"rid\":\"{name}\","), 1));
        assert_eq!(name.len(), 32);
        name
    }

    async fn expect_abort(&mut self, name: &str) {
        let said: Value = serde_json::from_str(&self.next_asked("/abort_request").await).unwrap();
        assert_eq!(said, json!({"rid": name, "abort_all": false}));
    }
}

#[tokio::test]
async fn a_text_that_has_not_begun_is_stopped() {
    let mut engine = Engine::new("sglang", false).await;
    let run = engine.instance.run(work(true), context());
    tokio::pin!(run);
    let name = tokio::select! {
        _ = &mut run => panic!("it never answers"),
        asked = bounded(engine.asked.recv()) => {
            let text = asked.unwrap().1;
            serde_json::from_str::<Value>(&text).unwrap()["rid"].as_str().unwrap().to_owned()
        }
    };
    // The caller goes: the future is dropped.
    run.set(engine.instance.run(work(false), context()));
    let (path, said) = bounded(engine.asked.recv()).await.unwrap();
    assert_eq!(path, "/abort_request");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["rid"], name);
}

#[tokio::test]
async fn a_stream_is_stopped_unless_it_has_ended() {
    let mut engine = Engine::new("sglang", true).await;
    let mut names = Vec::new();
    for ends in [true, false] {
        let answer = bounded(engine.instance.run(work(true), context())).await.unwrap();
        let Answer::Relay(mut answer) = answer else { panic!("{answer:?}") };
        names.push(engine.next_name().await);
        engine.pieces.send("data: 1\n\n").unwrap();
        assert!(bounded(answer.body.frame()).await.is_some());
        if ends {
            engine.pieces.send("end").unwrap();
            assert!(bounded(answer.body.frame()).await.is_none());
        }
    }
    assert_ne!(names[0], names[1]);
    // The first word of stopping is of the second one: the first had ended.
    engine.expect_abort(&names[1]).await;
}

#[tokio::test]
async fn what_has_a_name_already_or_asks_for_several_is_left_as_it_is() {
    let mut engine = Engine::new("sglang", true).await;
    drop(bounded(engine.instance.run(work(false), context())).await.unwrap());
    assert_eq!(engine.next_asked("/v1/chat/completions").await, BODY);
    // And nobody is told to stop it.
    drop(bounded(engine.instance.run(work(true), context())).await.unwrap());
    let name = engine.next_name().await;
    engine.expect_abort(&name).await;
}

#[tokio::test]
async fn other_engines_get_what_the_caller_sent() {
    for owner in ["vllm", "llamacpp"] {
        let mut engine = Engine::new(owner, true).await;
        for _ in 0..2 {
            drop(bounded(engine.instance.run(work(true), context())).await.unwrap());
            assert_eq!(engine.next_asked("/v1/chat/completions").await, BODY);
        }
    }
}
