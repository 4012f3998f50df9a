//! The HTTP clients against the same faulty server as the gRPC one.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::sync::Arc;

use batchwise::call::{Answer, ItemsRequest, ItemsRoute, RelayRequest, Work};
use batchwise::instance::{BatchLimit, Instance, KserveGrpc, KserveHttp, KserveV1, OpenAi};
use batchwise::lane::Blame;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;

use crate::model_server::{DropMoment, ModelServer, Options, Settings, Trigger};
use crate::support::{blame, bounded, context, floats_of, infer_answer, url, work};

async fn server_with(settings: Settings) -> ModelServer {
    ModelServer::start(Options { settings, ..Options::default() }).await.unwrap()
}

/// An instance, and a work that it answers.
type Pair = (Arc<dyn Instance>, fn() -> Work);

/// One of each HTTP protocol.
fn everyone(server: &ModelServer) -> Vec<Pair> {
    let url = url(server.http_address());
    vec![
        (Arc::new(KserveHttp::new(url.clone(), "linear", None)), || work(&[1.0, 2.0])),
        (Arc::new(KserveV1::new(url.clone(), "linear", None)), predict),
        (Arc::new(OpenAi::new(url.clone(), "embed", None)), embed),
        (Arc::new(OpenAi::new(url, "chat", None)), chat),
    ]
}

fn items(route: ItemsRoute, items: &[&'static [u8]]) -> Work {
    let items = items.iter().copied().map(Bytes::from_static).collect();
    Work::Items(ItemsRequest { route, items, options: Bytes::new(), body: None })
}

fn predict() -> Work {
    items(ItemsRoute::Predict, &[b"[1.0]", b"[2.0]"])
}

fn embed() -> Work {
    items(ItemsRoute::Embeddings, &[b"\"a\"", b"\"b\""])
}

fn chat() -> Work {
    let body = br#"{"model":"chat","stream":true,"messages":[{"role":"user","content":"hi you"}]}"#;
    let body = Bytes::from_static(body);
    let path = "/v1/chat/completions";
    Work::Relay(RelayRequest {
        affinity: None,
        path,
        headers: HeaderMap::new(),
        body,
        stream: true,
        can_be_named: true,
        with_usage: None,
    })
}

#[tokio::test]
async fn every_protocol_is_answered() {
    let server = server_with(Settings { max_batch_size: 8, ..Settings::default() }).await;
    for (instance, work) in everyone(&server) {
        assert_eq!(bounded(instance.probe()).await, Ok(()));
        match bounded(instance.run(work(), context())).await.unwrap() {
            Answer::Infer(answer) => {
                assert_eq!(floats_of(&answer), [3.0, 5.0]);
                let limit = bounded(instance.describe()).await.unwrap().batch_limit;
                assert_eq!(limit, BatchLimit::Rows(8));
            }
            Answer::Items(answer) => assert_eq!(answer.items.len(), 2),
            Answer::Relay(answer) => {
                assert_eq!(answer.headers["content-type"], "text/event-stream");
                let events = bounded(answer.body.collect()).await.unwrap().to_bytes();
                assert!(events.ends_with(b"data: [DONE]\n\n"));
            }
        }
    }
    let (instance, _) = &everyone(&server)[0];
    let large: Vec<f32> = vec![1.0; 100_000];
    server.switches().set(|settings| settings.max_batch_size = 0);
    let answer = infer_answer(bounded(instance.run(work(&large), context())).await);
    assert_eq!(floats_of(&answer), vec![3.0; 100_000]);
    server.shutdown().await;
}

/// Probes that infer cost what inference costs, and wait behind it.
#[tokio::test]
async fn probes_and_descriptions_never_infer() {
    let server = server_with(Settings { record: 10, ..Settings::default() }).await;
    let mut instances: Vec<_> =
        everyone(&server).into_iter().map(|(instance, _)| instance).collect();
    instances.push(Arc::new(KserveGrpc::new(url(server.grpc_address()), "linear")));
    for instance in instances {
        for _ in 0..3 {
            assert_eq!(bounded(instance.probe()).await, Ok(()), "{instance:?}");
            bounded(instance.describe()).await.unwrap();
            bounded(instance.load()).await.unwrap();
        }
    }
    let seen = server.statistics();
    assert_eq!((seen.calls, seen.executions), (0, 0), "{:?}", seen.seen);
    assert!(seen.connections > 0);
    server.shutdown().await;
}

#[tokio::test]
async fn faults_are_sorted_alike_in_every_protocol() {
    let fail = Settings { fail: Trigger::Always, ..Settings::default() };
    let drop_at_once = Settings { drop_connection: Trigger::Always, ..Settings::default() };
    let drop_moment = DropMoment::BeforeReply;
    let drop_late = Settings { drop_moment, ..drop_at_once.clone() };
    for (settings, expected) in
        [(fail, Blame::Broken), (drop_at_once, Blame::Lost), (drop_late, Blame::Lost)]
    {
        let server = server_with(settings).await;
        for (instance, work) in everyone(&server) {
            let blame = blame(bounded(instance.run(work(), context())).await);
            assert_eq!(blame, expected, "{instance:?}");
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn batches_learn_of_overload_and_relays_pass_it_on() {
    let server = server_with(Settings { overload: Trigger::Always, ..Settings::default() }).await;
    for (instance, work) in everyone(&server) {
        match bounded(instance.run(work(), context())).await {
            Ok(Answer::Relay(answer)) => {
                assert_eq!(answer.status, 429);
                assert_eq!(answer.headers["retry-after"], "1");
            }
            outcome => {
                let after = std::time::Duration::from_secs(1).into();
                assert_eq!(blame(outcome), Blame::Overload { retry_after: Some(after) });
            }
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn items_that_do_not_come_back_one_by_one_are_told() {
    let server = server_with(Settings { wrong_rows: Trigger::Always, ..Settings::default() }).await;
    for (instance, work) in everyone(&server).into_iter().skip(1).take(2) {
        let blame = blame(bounded(instance.run(work(), context())).await);
        assert_eq!(blame, Blame::NotBatched, "{instance:?}");
    }
    server.shutdown().await;
}
