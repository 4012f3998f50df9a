//! KServe v2 over HTTP.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwise::call::FaultKind;
use batchwise::instance::{BatchLimit, Instance as _, KserveHttp};
use batchwise::lane::Blame;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::scripted::{Body, Scripted, body, nobody};
use crate::support::{
    blame, bounded, context, failure, floats, floats_of, infer_answer, url, work,
};

const HEADER_LENGTH: &str = "inference-header-content-length";

/// What a server was asked.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// A server that keeps what it is asked and answers by a function of it.
async fn server(
    answer: impl Fn(&Asked) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Scripted, Log) {
    let log = Log::default();
    let kept = Arc::clone(&log);
    let server = Scripted::http(move |request| {
        let (kept, answer) = (Arc::clone(&kept), answer.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let asked = Asked { path: head.uri.path().to_owned(), headers: head.headers, body };
            let reply = answer(&asked);
            kept.lock().unwrap().push(asked);
            reply
        }
    })
    .await;
    (server, log)
}

fn json(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    let reply = Response::builder().status(status).header("content-type", "application/json");
    reply.body(body(text)).unwrap()
}

fn binary_reply(values: &[f32]) -> Response<Body> {
    let head = format!(
        r#"{{"model_name":"m","model_version":"1","outputs":[{{"name":"y","datatype":"FP32","shape":[{},1],"parameters":{{"binary_data_size":{}}}}}]}}"#,
        values.len(),
        values.len() * 4
    );
    let mut bytes = head.clone().into_bytes();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    let mut reply = json(200, bytes);
    reply.headers_mut().insert(HEADER_LENGTH, head.len().into());
    reply
}

const JSON_REPLY: &str = r#"{"model_name":"m","outputs":[
    {"name":"y","datatype":"FP32","shape":[2,1],"data":[7.5,8.0]}]}"#;

#[tokio::test]
async fn tensors_travel_as_binary_data_both_ways() {
    let (server, log) = server(|_| binary_reply(&[3.0, 5.0])).await;
    let instance = KserveHttp::new(url(server.address), "org/m", None);
    let mut request = floats(&[1.0, 2.0]);
    request.version = "3".to_owned();
    let work = batchwise::call::Work::Infer(request);
    let answer = infer_answer(bounded(instance.run(work, context())).await);
    assert_eq!((floats_of(&answer), answer.version.as_str()), (vec![3.0, 5.0], "1"));
    let asked = log.lock().unwrap().pop().unwrap();
    assert_eq!(asked.path, "/v2/models/org%2Fm/versions/3/infer");
    assert_eq!(asked.headers["x-request-id"], "batch-1");
    let length: usize = asked.headers[HEADER_LENGTH].to_str().unwrap().parse().unwrap();
    let raw = [1_f32.to_le_bytes(), 2_f32.to_le_bytes()].concat();
    assert_eq!(asked.body[length..], raw);
}

#[tokio::test]
async fn an_instance_without_the_binary_extension_gets_json_from_its_first_refusal_on() {
    let (server, log) = server(|asked| match asked.headers.contains_key(HEADER_LENGTH) {
        true => json(422, r#"{"error":"not JSON"}"#),
        false => json(200, JSON_REPLY),
    })
    .await;
    let instance = KserveHttp::new(url(server.address), "m", None);
    for _ in 0..3 {
        let answer = infer_answer(bounded(instance.run(work(&[1.0, 2.0]), context())).await);
        assert_eq!(floats_of(&answer), [7.5, 8.0]);
    }
    let log = log.lock().unwrap();
    let binary: Vec<_> =
        log.iter().map(|asked| asked.headers.contains_key(HEADER_LENGTH)).collect();
    assert_eq!(binary, [true, false, false, false]);
    assert!(std::str::from_utf8(&log[1].body).unwrap().contains(r#""data":[1.0,2.0]"#));
}

#[tokio::test]
async fn a_server_that_does_not_list_the_binary_extension_gets_json_at_once() {
    let (server, log) = server(|asked| match asked.path.as_str() {
        "/v2" => json(200, r#"{"name":"s","version":"1","extensions":[]}"#),
        "/v2/models/m" => json(200, r#"{"name":"m","platform":"","inputs":[],"outputs":[]}"#),
        "/v2/models/m/config" => json(404, "{}"),
        _ if asked.headers.contains_key(HEADER_LENGTH) => json(500, "broke over raw bytes"),
        _ => json(200, JSON_REPLY),
    })
    .await;
    let instance = KserveHttp::new(url(server.address), "m", None);
    bounded(instance.describe()).await.unwrap();
    let answer = infer_answer(bounded(instance.run(work(&[1.0, 2.0]), context())).await);
    assert_eq!(floats_of(&answer), [7.5, 8.0]);
    let asked = log.lock().unwrap().pop().unwrap();
    assert!(!asked.headers.contains_key(HEADER_LENGTH));
}

#[tokio::test]
async fn an_instance_that_took_binary_data_once_is_not_asked_twice_when_it_refuses() {
    let (server, log) = server(|asked| match asked.body.ends_with(&2_f32.to_le_bytes()) {
        true => binary_reply(&[1.0]),
        false => json(400, r#"{"error":"unexpected shape for input 'x'"}"#),
    })
    .await;
    let instance = KserveHttp::new(url(server.address), "m", None);
    infer_answer(bounded(instance.run(work(&[2.0]), context())).await);
    let failure = failure(bounded(instance.run(work(&[1.0]), context())).await);
    assert_eq!((failure.blame, failure.fault.kind), (Blame::Refused, FaultKind::Refused));
    assert_eq!(failure.fault.message, "unexpected shape for input 'x'");
    let refusal = failure.fault.refusal.unwrap();
    assert_eq!(refusal.http, Some(StatusCode::BAD_REQUEST));
    assert_eq!(refusal.content_type.as_deref(), Some("application/json"));
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn statuses_are_sorted_by_whose_fault_they_are() {
    let run = async |answer: fn(&Asked) -> Response<Body>| {
        let (server, _) = server(answer).await;
        let instance = KserveHttp::new(url(server.address), "m", None);
        blame(bounded(instance.run(work(&[1.0]), context())).await)
    };
    assert_eq!(run(|_| json(500, "broke")).await, Blame::Broken);
    assert_eq!(run(|_| json(404, "{}")).await, Blame::Refused);
    assert_eq!(run(|_| json(200, "<html>")).await, Blame::Broken);
    let busy = |_: &Asked| {
        let mut reply = json(503, "busy");
        reply.headers_mut().insert("retry-after", 2.into());
        reply
    };
    let after = Duration::from_secs(2).into();
    assert_eq!(run(busy).await, Blame::Overload { retry_after: Some(after) });
}

#[tokio::test]
async fn a_connection_that_breaks_is_the_connections_fault() {
    let instance = KserveHttp::new(url(nobody().await), "m", None);
    assert_eq!(blame(bounded(instance.run(work(&[1.0]), context())).await), Blame::Connection);
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"outputs\"";
    for reply in [&b""[..], half] {
        let server = Scripted::raw(move |mut stream| async move {
            let mut request = [0; 4096];
            drop(stream.read(&mut request).await);
            drop(stream.write_all(reply).await);
        })
        .await;
        let instance = KserveHttp::new(url(server.address), "m", None);
        assert_eq!(blame(bounded(instance.run(work(&[1.0]), context())).await), Blame::Lost);
    }
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let (server, _) = server(|_| binary_reply(&[1.0])).await;
    let instance = KserveHttp::new(url(server.address), "m", None);
    for _ in 0..5 {
        infer_answer(bounded(instance.run(work(&[1.0]), context())).await);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection() {
    let (closed, mut seen) = tokio::sync::mpsc::channel(1);
    let server = Scripted::raw(move |mut stream| {
        let closed = closed.clone();
        async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                closed.try_send("asked").ok();
            }
            closed.send("closed").await.ok();
        }
    })
    .await;
    let instance = KserveHttp::new(url(server.address), "m", None);
    let running = tokio::spawn(async move { instance.run(work(&[1.0]), context()).await.is_ok() });
    assert_eq!(bounded(seen.recv()).await, Some("asked"));
    running.abort();
    bounded(async { while seen.recv().await != Some("closed") {} }).await;
}

const METADATA: &str = r#"{"name":"m","versions":["1","2"],"platform":"onnxruntime_onnx",
    "inputs":[{"name":"x","datatype":"FP32","shape":[-1,4]}],
    "outputs":[{"name":"y","datatype":"INT64","shape":[-1]}]}"#;

#[tokio::test]
async fn the_model_is_described_with_and_without_a_configuration() {
    let describe = async |answer: fn(&Asked) -> Response<Body>| {
        let (server, _) = server(answer).await;
        let instance = KserveHttp::new(url(server.address), "m", None);
        bounded(instance.describe()).await
    };
    let described = describe(|asked| match asked.path.as_str() {
        "/v2/models/m" => json(200, METADATA),
        "/v2/models/m/config" => {
            json(200, r#"{"max_batch_size":16,"instance_group":[{"count":2}]}"#)
        }
        _ => json(404, "{}"),
    });
    let described = described.await.unwrap();
    assert_eq!(described.batch_limit, BatchLimit::Rows(16));
    assert_eq!((described.parallel_batches, described.versions.len()), (Some(2), 2));
    assert_eq!(described.inputs[0].shape, [-1, 4]);
    let bare = |asked: &Asked| match asked.path.as_str() {
        "/v2/models/m" => json(200, METADATA),
        _ => json(404, "{}"),
    };
    assert_eq!(describe(bare).await.unwrap().batch_limit, BatchLimit::Unknown);
    assert!(describe(|_| json(500, "{}")).await.is_err());
}

#[tokio::test]
async fn a_probe_asks_the_model_or_the_path_that_was_configured() {
    let (server, log) = server(|asked| match asked.path.as_str() {
        "/v2/models/m/ready" | "/alive" => json(200, "{}"),
        _ => json(404, r#"{"error":"no such model"}"#),
    })
    .await;
    let probe = async |model, path: Option<&str>| {
        let instance = KserveHttp::new(url(server.address), model, path.map(str::to_owned));
        bounded(instance.probe()).await
    };
    assert_eq!(probe("m", None).await, Ok(()));
    assert!(probe("n", None).await.unwrap_err().to_string().contains("no such model"));
    assert_eq!(probe("n", Some("/alive")).await, Ok(()));
    assert_eq!(log.lock().unwrap().last().unwrap().path, "/alive");
}
