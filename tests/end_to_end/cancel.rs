//! A caller that goes takes its call with it, wherever the call is.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use prost::Message as _;
use serde_json::json;

use crate::model_server::{ModelServer, Options, Settings, Trigger};
use crate::raw::{Multiplexed, RawConnection, endless, prefixed, whole};
use crate::stage::{BOUND, Stage, ask, eventually, proxy, request};

const INFER: &str = "/v2/models/linear/infer";
const GOOD: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;

/// A proxy whose only instance takes one call at a time and answers none.
async fn stalled() -> Stage {
    let stall = Settings { stall: Trigger::Always, ..Settings::default() };
    Stage::new("max_concurrency = 1\nmax_batch_size = 1", [stall]).await
}

async fn post_good(stage: &Stage) -> RawConnection {
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, &format!("content-length: {}\r\n", GOOD.len())).await;
    caller.send(GOOD).await;
    caller
}

fn message() -> Bytes {
    let message = request(1, 1, 0.0).encode_to_vec();
    prefixed(u32::try_from(message.len()).unwrap(), &message)
}

async fn waiting_rows(stage: &Stage) -> u64 {
    stage.proxy.models.get("linear").unwrap().status().await.unwrap().waiting_rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_http1_that_closes_in_flight_and_queued() {
    let stage = stalled().await;
    let riding = post_good(&stage).await;
    stage.servers[0].wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    let queued = post_good(&stage).await;
    eventually(async || waiting_rows(&stage).await == 1).await;
    drop(queued);
    eventually(async || waiting_rows(&stage).await == 0).await;
    assert_eq!(stage.servers[0].statistics().cancelled, 0);
    drop(riding);
    stage.servers[0].wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    eventually(async || {
        let counted = r#"protocol="kserve-http",priority="2",outcome="cancelled"} 2"#;
        stage.proxy.metrics().contains(counted) && stage.proxy.buffered_bytes() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http2_that_is_reset_in_flight_and_queued() {
    let stage = stalled().await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let riding = tokio::spawn(caller.call("ModelInfer", whole(message())));
    stage.servers[0].wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    let queued = tokio::spawn(caller.call("ModelInfer", whole(message())));
    eventually(async || waiting_rows(&stage).await == 1).await;
    queued.abort();
    eventually(async || waiting_rows(&stage).await == 0).await;
    riding.abort();
    stage.servers[0].wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    eventually(async || stage.proxy.buffered_bytes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_a_stream_that_is_reset() {
    let stage = stalled().await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let body = whole([message(), message()].concat());
    let answers = caller.call("ModelStreamInfer", body).await.unwrap();
    stage.servers[0].wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    eventually(async || waiting_rows(&stage).await == 1).await;
    drop(answers);
    stage.servers[0].wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    eventually(async || waiting_rows(&stage).await == 0 && stage.proxy.buffered_bytes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_body_is_still_being_read() {
    let stage = Stage::plain().await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, "content-length: 1000\r\n").await;
    eventually(async || stage.proxy.buffered_bytes() == 1000).await;
    drop(caller);
    eventually(async || stage.proxy.buffered_bytes() == 0).await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let reading = tokio::spawn(caller.call("ModelInfer", endless(vec![prefixed(1000, b"a")])));
    eventually(async || stage.proxy.buffered_bytes() == 1000).await;
    reading.abort();
    eventually(async || stage.proxy.buffered_bytes() == 0).await;
    // The one breaks off, the other is dropped.
    let page = stage.proxy.metrics();
    assert!(
        page.contains(r#"model="linear",protocol="kserve-http",priority="2",outcome="#),
        "{page}"
    );
    assert!(page.contains(r#"model="",protocol="kserve-grpc",priority="",outcome="#), "{page}");
    ask(&mut stage.client().await, request(1, 1, 0.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_events_before_the_first_and_between_two() {
    let settings = Settings { stall: Trigger::Next(1), ..Settings::default() };
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let proxy = proxy(&format!(
        "[[model]]\nname = \"chat\"\nprotocol = \"openai\"\ninstances = [\"http://{}\"]\n",
        server.http_address()
    ))
    .await;
    let body = json!({"model": "chat", "stream": true,
                      "messages": [{"role": "user", "content": "a b c d e f g h i j k l m n"}]});
    let headers = [("content-type", "application/json")];
    let path = "/v1/chat/completions";
    let mut caller = Multiplexed::open(proxy.http, 65_535).await;
    let waiting = tokio::spawn(caller.post(path, &headers, whole(body.to_string())));
    server.wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    waiting.abort();
    server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    // Now between two events, the next of which is far away.
    server.switches().set(|settings| settings.token_interval = BOUND);
    let mut events =
        caller.post(path, &headers, whole(body.to_string())).await.unwrap().into_body();
    events.frame().await.unwrap().unwrap();
    drop(events);
    server.wait_until(|seen| seen.cancelled == 2, BOUND).await.unwrap();
    let model = proxy.models.get("chat").unwrap();
    eventually(async || model.status().await.unwrap().instances[0].in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_events_that_stops_reading() {
    let settings = Settings::default();
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let proxy = proxy(&format!(
        "write_timeout = \"300ms\"\n[[model]]\nname = \"chat\"\nprotocol = \"openai\"\n\
         instances = [\"http://{}\"]\n",
        server.http_address()
    ))
    .await;
    // More events than all buffers on the way hold, were they not read.
    let body = json!({"model": "chat", "stream": true,
                      "messages": [{"role": "user", "content": "word ".repeat(200_000)}]});
    let mut caller = Multiplexed::open(proxy.http, 1000).await;
    let headers = [("content-type", "application/json")];
    let reply = caller.post("/v1/chat/completions", &headers, whole(body.to_string()));
    let unread = reply.await.unwrap();
    server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
    drop(unread);
}
