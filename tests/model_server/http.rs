//! KServe v2 and v1 over HTTP, the OpenAI API, and the control routes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers may fail the test")]

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::model_server::{
    DropMoment, ModelServer, Options, Settings, Trigger, embedding_of, relevance_of, reply_to,
};

const BOUND: Duration = Duration::from_secs(20);

struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` when the connection broke before its end.
    body: Option<Bytes>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(self.body.as_ref().expect("a whole body")).expect("JSON")
    }
}

impl Caller {
    async fn send(&self, request: http::request::Builder, body: Bytes) -> Option<Answer> {
        let sent = async {
            let response =
                self.client.request(request.body(Full::new(body)).unwrap()).await.ok()?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.ok().map(http_body_util::Collected::to_bytes);
            Some(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(BOUND, sent).await.expect("the test hangs")
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.address))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path), Bytes::new()).await.expect("an answer")
    }

    async fn try_post(&self, path: &str, body: &Value) -> Option<Answer> {
        self.send(self.request(Method::POST, path), body.to_string().into()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.expect("an answer")
    }
}

async fn server_with(settings: Settings) -> (ModelServer, Caller) {
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let address = server.http_address();
    (server, Caller { client, address })
}

const INFER: &str = "/v2/models/linear/infer";

fn input(datatype: &str, shape: &[usize], data: &Value) -> Value {
    json!({ "name": "x", "datatype": datatype, "shape": shape, "data": data })
}

#[tokio::test]
async fn v2_json_flat_and_nested_gives_flat_json() {
    let (server, caller) = server_with(Settings::default()).await;
    let cases = [
        ("FP32", vec![2, 2], json!([[1.5, 2], [3, 4]]), json!([4.0, 5.0, 7.0, 9.0])),
        ("INT64", vec![2], json!([1, -4]), json!([3, -7])),
        ("BYTES", vec![2, 1], json!(["ab", "é!"]), json!(["ba", "!é"])),
        ("BOOL", vec![1], json!([true]), json!([true])),
        ("UINT8", vec![1], json!([255]), json!([255])),
    ];
    for (datatype, shape, data, expected) in cases {
        let body = json!({ "id": "a", "inputs": [input(datatype, &shape, &data)] });
        let answer = caller.post(INFER, &body).await.json();
        assert_eq!(answer["id"], "a");
        let output = &answer["outputs"][0];
        assert_eq!((&output["name"], &output["data"]), (&json!("y"), &expected), "{datatype}");
        assert_eq!(output["shape"], json!(shape));
    }
    let seen = server.statistics().seen;
    assert_eq!((seen[0].first.as_str(), seen[0].path.as_str()), ("1.5", INFER));
}

#[tokio::test]
async fn v2_binary_tensors_both_ways() {
    let (_server, caller) = server_with(Settings::default()).await;
    let raw: Vec<u8> = [1f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let head = json!({
        "inputs": [{
            "name": "x", "datatype": "FP32", "shape": [2],
            "parameters": { "binary_data_size": raw.len() },
        }],
        "outputs": [{ "name": "y", "parameters": { "binary_data": true } }],
    });
    let head = head.to_string();
    let body = [head.as_bytes(), &raw].concat();
    let header = "inference-header-content-length";
    let request = caller.request(Method::POST, INFER).header(header, head.len());
    let answer = caller.send(request, body.into()).await.unwrap();
    let length: usize = answer.headers[header].to_str().unwrap().parse().unwrap();
    let body = answer.body.unwrap();
    let head: Value = serde_json::from_slice(&body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 8);
    let expected: Vec<u8> = [3f32, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(body[length..], expected);
}

#[tokio::test]
async fn v2_refuses_with_a_reason() {
    let settings = Settings { max_batch_size: 1, ..Settings::default() };
    let (server, caller) = server_with(settings).await;
    let one = input("FP32", &[1], &json!([1]));
    let unknown = "/v2/models/nobody/infer";
    let cases = [
        (unknown, json!({ "inputs": [one] }), 404, "nobody"),
        ("/v2/models/linear/versions/7/infer", json!({ "inputs": [one] }), 404, "'7'"),
        (INFER, json!({ "inputs": [] }), 400, "input"),
        (INFER, json!({ "inputs": [input("FP32", &[2], &json!([1, 2]))] }), 400, "max_batch_size"),
        (INFER, json!({ "inputs": [input("FP32", &[1], &json!(["a"]))] }), 400, "FP32"),
        (INFER, json!({ "inputs": [input("FP16", &[1], &json!([1]))] }), 400, "FP16"),
        (INFER, json!({ "no": 1 }), 400, "inputs"),
    ];
    for (path, body, status, part) in cases {
        let answer = caller.post(path, &body).await;
        assert_eq!(answer.status, status);
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(caller.get("/v2/models/linear/config").await.json()["max_batch_size"], 1);
    assert_eq!(caller.get("/v2/health/ready").await.status, 200);
    server.switches().set(|settings| settings.ready = false);
    assert_eq!(caller.get("/v2/health/ready").await.status, 503);
    assert_eq!(caller.get("/v2/models/linear/ready").await.status, 503);
    assert_eq!(caller.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn v1_predicts_instances_of_any_form() {
    let (server, caller) = server_with(Settings::default()).await;
    let path = "/v1/models/linear:predict";
    let body = json!({ "instances": [1, 2.5, [3, [4]], { "x": 5, "t": "abc" }] });
    let answer = caller.post(path, &body).await.json();
    let expected = json!([3, 6.0, [7, [9]], { "x": 11, "t": "cba" }]);
    assert_eq!(answer, json!({ "predictions": expected }));
    assert_eq!(server.statistics().rows, 4);
    assert_eq!(caller.get("/v1/models/linear").await.json()["ready"], true);
}

#[tokio::test]
async fn embeddings_in_both_encodings() {
    let (server, caller) = server_with(Settings::default()).await;
    let body = json!({ "model": "embed", "input": ["a b", "c"], "dimensions": 10 });
    let answer = caller.post("/v1/embeddings", &body).await.json();
    let vector: Vec<f32> =
        answer["data"][1]["embedding"].as_array().unwrap().iter().map(number).collect();
    assert_eq!(vector, embedding_of("c", 10));
    assert_eq!(vector[8], vector[0]);
    assert_ne!(vector, embedding_of("a b", 10));
    assert_eq!(answer["usage"]["prompt_tokens"], 3);

    let body = json!({ "model": "embed", "input": [[1, 2]], "encoding_format": "base64" });
    let answer = caller.post("/v1/embeddings", &body).await.json();
    let raw = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let expected: Vec<u8> = embedding_of("1,2", 8).iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(raw, expected);
    let sizes = server.statistics().batch_sizes;
    assert_eq!(sizes, [(1, 1), (2, 1)].into());
}

fn number(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

#[tokio::test]
async fn rerank_sorts_by_relevance() {
    let (_server, caller) = server_with(Settings::default()).await;
    let documents = ["one", "two", "three"];
    let body = json!({ "model": "linear", "query": "q", "documents": documents, "top_n": 2 });
    let results = caller.post("/v1/rerank", &body).await.json()["results"].clone();
    let results = results.as_array().unwrap();
    let mut expected = documents.map(|text| relevance_of("q", text));
    expected.sort_by(|left, right| right.total_cmp(left));
    let scores: Vec<_> = results.iter().map(|it| it["relevance_score"].as_f64().unwrap()).collect();
    assert_eq!(scores, expected[..2]);
    for result in results {
        let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
        assert_eq!(result["relevance_score"], relevance_of("q", documents[index]));
    }
}

fn chat(stream: bool) -> Value {
    json!({
        "model": "chat", "stream": stream, "stream_options": { "include_usage": true },
        "messages": [
            { "role": "system", "content": "Be kind." },
            { "role": "user", "content": [{ "type": "text", "text": "hello there" }] },
        ],
    })
}

/// The data of each event.
fn events(body: &Bytes) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    text.split_terminator("\n\n").map(|it| it.strip_prefix("data: ").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn chat_whole_and_streamed_say_the_same() {
    let (_server, caller) = server_with(Settings::default()).await;
    let path = "/v1/chat/completions";
    let whole = caller.post(path, &chat(false)).await.json();
    let said = &whole["choices"][0]["message"]["content"];
    assert_eq!(said, &json!(reply_to("hello there")));

    let answer = caller.post(path, &chat(true)).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let mut events = events(answer.body.as_ref().unwrap());
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let events: Vec<Value> = events.iter().map(|it| serde_json::from_str(it).unwrap()).collect();
    let piece = |event: &Value| {
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(&json!(events.iter().map(piece).collect::<String>()), said);
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "stop");

    let body = json!({ "model": "chat", "prompt": ["a b c", "d"], "max_tokens": 3 });
    let answer = caller.post("/v1/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["text"], "You said: a ");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][1]["text"], "You said: d");
}

#[tokio::test]
async fn faults_are_told_in_each_protocols_form() {
    let (server, caller) = server_with(Settings::default()).await;
    server.switches().set(|settings| settings.overload = Trigger::Always);
    let answer = caller.post("/v1/chat/completions", &chat(false)).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers["retry-after"], "1");
    let error = answer.json()["error"].clone();
    assert_eq!(error["type"], "requests");
    assert!(error["message"].is_string() && error["code"].is_null());
    let answer = caller.post("/v1/models/linear:predict", &json!({ "instances": [1] })).await;
    assert!(answer.json()["error"].is_string());
    server.switches().set(|settings| {
        settings.overload = Trigger::Never;
        settings.garbage = Trigger::Next(1);
    });
    let answer = caller.post(INFER, &json!({})).await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice::<Value>(&answer.body.unwrap()).expect_err("garbage");
}

#[tokio::test]
async fn dropped_connections_break_at_the_moment_told() {
    let (server, caller) = server_with(Settings::default()).await;
    for moment in [DropMoment::AtOnce, DropMoment::BeforeReply, DropMoment::MidReply] {
        for (path, body) in [
            ("/v1/chat/completions", chat(true)),
            ("/v1/models/linear:predict", json!({ "instances": [1, 2, 3] })),
        ] {
            server.switches().set(|settings| {
                settings.drop_connection = Trigger::Next(1);
                settings.drop_moment = moment;
            });
            let answer = caller.try_post(path, &body).await;
            if moment == DropMoment::MidReply {
                let answer = answer.expect("the head of a reply");
                assert!(answer.body.is_none(), "a body without its end");
            } else {
                assert!(answer.is_none());
            }
            server.wait_until(|seen| seen.concurrency == 0, BOUND).await.unwrap();
        }
    }
    assert_eq!(server.statistics().cancelled, 6);
}

#[tokio::test]
async fn a_reader_who_leaves_a_stream_is_counted() {
    let token_interval = Duration::from_secs(3600);
    let settings = Settings { token_interval, ..Settings::default() };
    let (server, caller) = server_with(settings).await;
    let request = caller.request(Method::POST, "/v1/chat/completions");
    let request = request.body(Full::new(chat(true).to_string().into())).unwrap();
    let mut response = caller.client.request(request).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"data: "));
    drop(response);
    server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
}

#[tokio::test]
async fn control_changes_settings_and_statistics_start_anew() {
    let (server, caller) = server_with(Settings::default()).await;
    let patch = json!({ "service": { "base_ms": 1.5 }, "fail": "next:1" });
    let settings = caller.post("/control", &patch).await.json();
    assert_eq!(settings["service"]["base_ms"], 1.5);
    assert_eq!(server.switches().get().service.base, Duration::from_micros(1500));
    assert_eq!(caller.get("/control").await.json()["fail"], "next:1");
    for wrong in [json!({ "fail": "sometimes" }), json!({ "unknown": 1 }), json!(3)] {
        assert_eq!(caller.post("/control", &wrong).await.status, 400);
    }
    assert_eq!(server.switches().get().fail, Trigger::Next(1));
    let predict = json!({ "instances": [1] });
    let answer = caller.post("/v1/models/linear:predict", &predict).await;
    assert_eq!(answer.status, 500);
    caller.post("/v1/models/linear:predict", &predict).await;
    let counted = caller.get("/statistics").await.json();
    assert_eq!((&counted["calls"], &counted["failed"]), (&json!(2), &json!(1)));
    assert_eq!(counted["batch_sizes"], json!({ "1": 1 }));
    caller.send(caller.request(Method::DELETE, "/statistics"), Bytes::new()).await.unwrap();
    assert_eq!(caller.get("/statistics").await.json()["calls"], 0);
}

#[tokio::test]
async fn a_server_can_start_unready() {
    let unready_for = Duration::from_millis(50);
    let options = Options { unready_for, ..Options::default() };
    let server = ModelServer::start(options).await.unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let caller = Caller { client, address: server.http_address() };
    assert_eq!(caller.get("/health").await.status, 503);
    let ready = async { while caller.get("/health").await.status != 200 {} };
    tokio::time::timeout(BOUND, ready).await.expect("ready in the end");
}
