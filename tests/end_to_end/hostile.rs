//! Callers that stop in the middle, do not read, or send what is too much of anything.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use prost::Message as _;

use crate::model_server::Settings;
use crate::raw::{Multiplexed, RawConnection, endless, grpc_status, prefixed, whole};
use crate::stage::{BOUND, Stage, ask, eventually, request};

const INFER: &str = "/v2/models/linear/infer";

/// A proxy with little patience.
async fn impatient() -> Stage {
    let keys = "read_timeout = \"300ms\"\nwrite_timeout = \"300ms\"";
    Stage::with(keys, "", [Settings::default()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_answered_and_its_memory_given_back() {
    let stage = impatient().await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, "content-length: 1000000\r\n").await;
    caller.send("{\"inputs\"").await;
    eventually(async || stage.proxy.buffered_bytes() == 1_000_000).await;
    let reply = caller.reply().await;
    assert_eq!(
        (reply.status, &reply.headers["x-batchwise-reason"]),
        (400, &"invalid_request".parse().unwrap())
    );
    assert!(reply.body.contains("stalled"), "{}", reply.body);
    assert_eq!(reply.headers["connection"], "close");
    assert!(caller.is_closed().await);
    assert_eq!(stage.proxy.buffered_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stops_is_answered_and_its_memory_given_back() {
    let stage = impatient().await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let reply = caller.call(method, endless(vec![prefixed(1_000_000, b"abc")]));
        let reply = tokio::spawn(reply);
        eventually(async || stage.proxy.buffered_bytes() == 1_000_000).await;
        let (status, headers) = grpc_status(reply.await.unwrap().unwrap()).await;
        assert_eq!(status, "3", "{method}: {headers:?}");
        assert!(headers["grpc-message"].to_str().unwrap().contains("stalled"), "{headers:?}");
        eventually(async || stage.proxy.buffered_bytes() == 0).await;
    }
    let refused = caller.call("ServerLive", endless(Vec::new())).await.unwrap();
    assert_eq!(grpc_status(refused).await.0, "3");
    ask(&mut stage.client().await, request(1, 1, 0.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_be_silent_between_its_messages() {
    let stage = impatient().await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let message = request(1, 1, 0.0).encode_to_vec();
    let message = prefixed(u32::try_from(message.len()).unwrap(), &message);
    let reply = caller.call("ModelStreamInfer", endless(vec![message])).await.unwrap();
    let mut answers = reply.into_body();
    assert!(answers.frame().await.unwrap().unwrap().is_data());
    // Other callers are given up meanwhile.
    let mut silent = RawConnection::open(stage.proxy.http).await;
    assert!(silent.is_closed().await);
    let mut stalled = RawConnection::open(stage.proxy.http).await;
    stalled.post(INFER, "content-length: 10\r\n").await;
    assert_eq!(stalled.reply().await.status, 400);
    let more = tokio::time::timeout(std::time::Duration::ZERO, answers.frame()).await;
    assert!(more.is_err(), "the stream was ended: {more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_disconnected() {
    let stage = impatient().await;
    for said in ["", "PRI * H", "PO", "POST /v2/models/linear/infer HTTP/1.1\r\nx: "] {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.send(said).await;
        assert!(caller.is_closed().await, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_an_answer_loses_the_connection() {
    let keys = "write_timeout = \"300ms\"\nmax_connections = 1";
    let stage = Stage::with(keys, "", [Settings::default()]).await;
    // Far more than the buffers of two sockets hold.
    let (rows, columns) = (1, 4_000_000);
    let head = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{rows},{columns}],"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        rows * columns * 4
    );
    let mut caller = RawConnection::open_narrow(stage.proxy.http).await;
    let length = head.len() + rows * columns * 4;
    let headers =
        format!("content-length: {length}\r\ninference-header-content-length: {}\r\n", head.len());
    caller.post(INFER, &headers).await;
    caller.send(&head).await;
    caller.send(vec![0; rows * columns * 4]).await;
    // There is room for one connection, so that this one is answered once the other is closed.
    let mut next = RawConnection::open(stage.proxy.http).await;
    next.send("GET /v2/health/live HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(next.reply().await.status, 200);
    assert_eq!(stage.proxy.buffered_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_taken_is_reset_and_the_connection_goes_on() {
    let stage = impatient().await;
    let mut caller = Multiplexed::open(stage.proxy.grpc, 1000).await;
    let message = request(1, 500_000, 0.0).encode_to_vec();
    let message = prefixed(u32::try_from(message.len()).unwrap(), &message);
    // The window is shut as long as the body is not read.
    let reply = caller.call("ModelInfer", whole(message)).await.unwrap();
    // Nothing of the connection waits, so it must be the stream that is given up.
    let given_up = async || {
        let page = stage.proxy.metrics();
        page.contains(r#"batchwise_given_up_total{reason="stream_not_reading"} 1"#)
    };
    eventually(given_up).await;
    assert!(reply.into_body().collect().await.is_err());
    let live = caller.call("ServerLive", whole(prefixed(0, b""))).await.unwrap();
    assert_eq!(grpc_status(live).await.0, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let stage = Stage::plain().await;
    let many: String = (0..200).map(|index| format!("x-{index}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "a".repeat(300_000));
    for (path, headers, status) in [
        (INFER, many.as_str(), 431),
        (INFER, large.as_str(), 431),
        (&format!("/{}", "a".repeat(70_000)), "", 414),
    ] {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.post(path, headers).await;
        assert_eq!(caller.reply().await.status, status);
    }
    let mut caller = Multiplexed::open(stage.proxy.http, 65_535).await;
    let large = "a".repeat(40_000);
    let refused = caller.post(INFER, &[("x", &large)], whole(Bytes::new())).await;
    assert!(refused.is_err() || refused.unwrap().status() == 431);
    ask(&mut stage.client().await, request(1, 1, 0.0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_json_is_refused_and_never_passed_on() {
    let stage = Stage::plain().await;
    for body in [
        format!("{{\"inputs\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
    ] {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.post(INFER, &format!("content-length: {}\r\n", body.len())).await;
        caller.send(&body).await;
        assert_eq!(caller.reply().await.status, 400);
    }
    assert!(
        tokio::time::timeout(BOUND, ask(&mut stage.client().await, request(1, 1, 0.0)))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_message_that_becomes_large_in_memory_is_refused() {
    let keys = "max_request_bytes = \"8MiB\"\nmax_buffered_bytes = \"64MiB\"";
    let stage = Stage::with(keys, "", [Settings::default()]).await;
    let mut bomb = request(1, 1, 0.0);
    bomb.raw_input_contents.clear();
    "BYTES".clone_into(&mut bomb.inputs[0].datatype);
    let contents = bomb.inputs[0].contents.get_or_insert_default();
    // Two bytes each on the wire, thirty-two in memory.
    contents.bytes_contents = vec![Bytes::new(); 3_000_000];
    let status = stage.client().await.model_infer(bomb).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("max_buffered_bytes"), "{status}");
    assert_eq!(stage.proxy.buffered_bytes(), 0);
    ask(&mut stage.client().await, request(1, 1, 0.0)).await.unwrap();
}
