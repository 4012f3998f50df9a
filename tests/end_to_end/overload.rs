//! What is refused at the door, before its body is read, and what becomes of the connection.

use std::time::Duration;

use crate::model_server::{Settings, Trigger};
use crate::raw::{Multiplexed, RawConnection, endless, grpc_status, prefixed};
use crate::stage::{BOUND, Stage, ask, eventually, request};

const INFER: &str = "/v2/models/linear/infer";
const GOOD: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;

async fn is_served(caller: &mut RawConnection) {
    caller.post(INFER, &format!("content-length: {}\r\n", GOOD.len())).await;
    caller.send(GOOD).await;
    let reply = caller.reply().await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn is_refused_for(reply: &crate::raw::RawReply, status: u16, reason: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.headers["x-batchwise-reason"], reason, "{reply:?}");
    if status == 503 {
        let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{reply:?}");
        assert!(reply.headers.contains_key("retry-after-ms"), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_survives_a_refusal_whose_rest_is_small() {
    let stage = Stage::plain().await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    for rest in [0, 1000, 60_000] {
        caller.post("/v2/models/nope/infer", &format!("content-length: {rest}\r\n")).await;
        // A first byte alone, so that the refusal comes before the rest.
        caller.send(" ".repeat(rest)).await;
        is_refused_for(&caller.reply().await, 404, "unknown_model");
        is_served(&mut caller).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_is_refused_without_being_asked_to_send() {
    let stage = Stage::bounded("1MiB").await;
    let expect = "expect: 100-continue\r\n";
    for (path, length, status) in [
        ("/v2/models/nope/infer", 10, 404),
        (INFER, 2 << 20, 413),
        ("/v1/models/nope:predict", 10, 404),
    ] {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.post(path, &format!("{expect}content-length: {length}\r\n")).await;
        let reply = caller.reply().await;
        assert_eq!(
            (reply.status, &reply.headers["connection"]),
            (status, &"close".parse().unwrap())
        );
        assert!(caller.is_closed().await);
    }
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, &format!("{expect}content-length: {}\r\n", GOOD.len())).await;
    assert_eq!(caller.reply().await.status, 100);
    caller.send(GOOD).await;
    assert_eq!(caller.reply().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_much_hears_why_though_it_goes_on_sending() {
    let stage = Stage::bounded("1MiB").await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, &format!("content-length: {}\r\n", 3 << 20)).await;
    caller.send(vec![b' '; 3 << 20]).await;
    is_refused_for(&caller.reply().await, 413, "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_would_not_fit_in_memory_are_refused_unread() {
    let keys = "max_request_bytes = \"1MiB\"\nmax_buffered_bytes = \"1MiB\"";
    let stage = Stage::with(keys, "", [Settings::default()]).await;
    let mut first = RawConnection::open(stage.proxy.http).await;
    first.post(INFER, "content-length: 900000\r\n").await;
    eventually(async || stage.proxy.buffered_bytes() == 900_000).await;
    let mut second = RawConnection::open(stage.proxy.http).await;
    second.post(INFER, "content-length: 900000\r\n").await;
    is_refused_for(&second.reply().await, 503, "buffers_full");
    let mut third = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let refused = third.call("ModelInfer", endless(vec![prefixed(900_000, b"")])).await.unwrap();
    let (status, headers) = grpc_status(refused).await;
    assert_eq!((status.as_str(), &headers["retry-after"]), ("14", &"1".parse().unwrap()));
    assert_eq!(headers["x-batchwise-reason"], "buffers_full");
    let page = stage.proxy.metrics();
    for labels in [
        r#"{model="linear",protocol="kserve-http",priority="2",outcome="buffers_full"} 1"#,
        r#"{model="",protocol="kserve-grpc",priority="",outcome="buffers_full"} 1"#,
    ] {
        assert!(page.contains(labels), "{labels} is not in {page}");
    }
    drop(first);
    eventually(async || stage.proxy.buffered_bytes() == 0).await;
    is_served(&mut RawConnection::open(stage.proxy.http).await).await;
    eventually(async || stage.proxy.buffered_bytes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_before_the_body_is_sent_but_for_who_is_more_urgent() {
    let stall = Settings { stall: Trigger::Always, ..Settings::default() };
    let keys = "max_queue_size = 2\nmax_concurrency = 1\nmax_batch_size = 1";
    let stage = Stage::with("", keys, [stall]).await;
    let model = stage.proxy.models.get("linear").unwrap();
    let client = stage.client().await;
    let ask = |count| {
        let mut client = client.clone();
        tokio::spawn(async move {
            for _ in 0..count {
                drop(ask(&mut client, request(1, 1, 0.0)).await);
            }
        })
    };
    let _riding = ask(1);
    stage.servers[0].wait_until(|seen| seen.calls == 1, BOUND).await.unwrap();
    let _waiting = [ask(1), ask(1)];
    eventually(async || model.status().await.unwrap().waiting_rows == 2).await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    for priority in [2, 3] {
        caller
            .post(INFER, &format!("content-length: 9\r\nx-request-priority: {priority}\r\n"))
            .await;
        caller.send("123456789").await;
        is_refused_for(&caller.reply().await, 503, "queue_full");
    }
    // One that is more urgent, or may turn out to be, or of a tenant that has less, is read, and found
    // to be wrong.
    let other_tenant = "x-request-priority: 2\r\nauthorization: Bearer other\r\n";
    for header in ["x-request-priority: 1\r\n", "", other_tenant] {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.post(INFER, &format!("content-length: 9\r\n{header}")).await;
        caller.send("123456789").await;
        is_refused_for(&caller.reply().await, 400, "invalid_request");
    }
    let page = stage.proxy.metrics();
    assert!(
        page.contains(r#"batchwise_shed_total{model="linear",priority="3",reason="queue_full"} 1"#),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_an_instance_refuses_unread_and_a_server_that_drains_is_closed() {
    let keys = "[model.health]\ninterval = \"50ms\"\nloading_hold = \"0s\"";
    let stage = Stage::with("", keys, [Settings::default()]).await;
    is_served(&mut RawConnection::open(stage.proxy.http).await).await;
    stage.servers[0].switches().set(|settings| settings.ready = false);
    let expecting = async |path: &str| {
        let mut caller = RawConnection::open(stage.proxy.http).await;
        caller.post(path, "expect: 100-continue\r\ncontent-length: 9\r\n").await;
        caller.reply().await
    };
    eventually(async || expecting(INFER).await.status == 503).await;
    is_refused_for(&expecting(INFER).await, 503, "no_instance");
    stage.servers[0].switches().set(|settings| {
        settings.ready = true;
        settings.stall = Trigger::Always;
    });
    eventually(async || expecting(INFER).await.status == 100).await;
    // A call under way keeps the server from ending.
    let mut client = stage.client().await;
    let riding = tokio::spawn(async move { ask(&mut client, request(1, 1, 0.0)).await });
    let address = stage.proxy.http;
    stage.servers[0].wait_until(|seen| seen.concurrency == 1, BOUND).await.unwrap();
    let models = std::sync::Arc::clone(&stage.proxy.models);
    let drain = tokio::spawn(stage.proxy.drain(Duration::from_secs(20)));
    eventually(async || models.is_closed()).await;
    let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    riding.abort();
    drain.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_passes_while_the_body_is_read() {
    let stage = Stage::plain().await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    caller.post(INFER, "content-length: 9\r\nx-request-timeout-ms: 50\r\n").await;
    is_refused_for(&caller.reply().await, 504, "deadline");
    let mut caller = Multiplexed::open(stage.proxy.grpc, 65_535).await;
    let headers = [("content-type", "application/grpc"), ("grpc-timeout", "50m")];
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let late = caller.post(path, &headers, endless(vec![prefixed(9, b"")])).await.unwrap();
    assert_eq!(grpc_status(late).await.0, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_reach_no_model_are_counted_without_what_the_caller_chose() {
    let stage = Stage::plain().await;
    let mut caller = RawConnection::open(stage.proxy.http).await;
    for path in [
        "/v2/models/evil-name/infer",
        "/v1/models/evil-name:predict",
        "/evil-name",
        "/v1/embeddings",
        INFER,
    ] {
        caller.post(path, "content-length: 1\r\n").await;
        caller.send("{").await;
        assert!(caller.reply().await.status >= 400);
    }
    let mut client = stage.client().await;
    let mut unknown = request(1, 1, 0.0);
    unknown.model_name = "evil-name".to_owned();
    client.model_infer(unknown).await.unwrap_err();
    let page = stage.proxy.metrics();
    for (protocol, outcome) in [
        ("kserve-http", "unknown_model"),
        ("kserve-v1", "unknown_model"),
        ("kserve-http", "unknown_route"),
        ("openai", "invalid_request"),
        ("kserve-grpc", "unknown_model"),
    ] {
        let labels = format!(
            r#"batchwise_requests_total{{model="",protocol="{protocol}",priority="",outcome="{outcome}"}} 1"#
        );
        assert!(page.contains(&labels), "{labels} is not in {page}");
    }
    let known =
        r#"{model="linear",protocol="kserve-http",priority="2",outcome="invalid_request"} 1"#;
    assert!(page.contains(known) && !page.contains("evil-name"), "{page}");
}
