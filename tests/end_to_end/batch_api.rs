//! OpenAI's Batch API: files in, batches run, files out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwise::app::{Running, start};
use batchwise::config::Plan;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::model_server::{
    FaultStatus, ModelServer, Options, ServiceTime, Settings, Trigger, embedding_of, reply_to,
};
use crate::stage::{BOUND, eventually};

const EMBEDDINGS: &str = "/v1/embeddings";
const CHAT: &str = "/v1/chat/completions";

/// A folder that is removed in the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let name = format!("batchwise-batch-api-{:016x}", RandomState::new().hash_one(0));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) struct Reply {
    status: StatusCode,
    pub(crate) body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self.json()
    }

    fn error(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        let error = self.json()["error"].clone();
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{error}");
        }
        error
    }
}

/// A model server, and a proxy with the Batch API before it.
struct Office {
    server: ModelServer,
    folder: Folder,
    proxy: Running,
}

impl Office {
    async fn new(keys: &str, settings: Settings) -> Self {
        let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
        let folder = Folder::new();
        let proxy = open(&plan(keys, &folder.0, &server)).await;
        Self { server, folder, proxy }
    }

    /// Ends the proxy politely, and starts another one on the same directory.
    async fn restart(self, change: impl FnOnce(&mut Plan)) -> Self {
        let Self { server, folder, proxy } = self;
        proxy.drain(Duration::from_secs(4)).await;
        let mut plan = plan("", &folder.0, &server);
        change(&mut plan);
        let proxy = open(&plan).await;
        Self { server, folder, proxy }
    }

    async fn send(&self, method: Method, path: &str, key: &str, body: (&str, Bytes)) -> Reply {
        request(self.proxy.http, method, path, key, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "k", ("text/plain", Bytes::new())).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, "k", ("application/json", body.to_string().into())).await
    }

    async fn upload(&self, content: &str) -> Reply {
        let (content_type, body) = form(&[("purpose", "batch")], "in.jsonl", content.as_bytes());
        self.send(Method::POST, "/v1/files", "k", (&content_type, body)).await
    }

    /// Uploads an input and begins a batch with it.
    async fn begin(&self, endpoint: &str, content: &str) -> Value {
        let file = self.upload(content).await.ok();
        let wanted = json!({"input_file_id": file["id"], "endpoint": endpoint,
                            "completion_window": "24h", "metadata": {"for": "a test"}});
        self.post("/v1/batches", &wanted).await.ok()
    }

    async fn batch(&self, id: &Value) -> Value {
        self.get(&format!("/v1/batches/{}", id.as_str().unwrap())).await.ok()
    }

    async fn until(&self, id: &Value, status: &str) -> Value {
        eventually(async || self.batch(id).await["status"] == status).await;
        self.batch(id).await
    }

    /// The lines of a file by their custom ids, each of which must be there once.
    async fn lines(&self, id: &Value) -> BTreeMap<String, Value> {
        let Some(id) = id.as_str() else { return BTreeMap::new() };
        let reply = self.get(&format!("/v1/files/{id}/content")).await;
        assert_eq!(reply.status, 200);
        let mut lines = BTreeMap::new();
        for line in std::str::from_utf8(&reply.body).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let custom_id = line["custom_id"].as_str().unwrap().to_owned();
            assert!(lines.insert(custom_id, line).is_none(), "a line is there twice");
        }
        lines
    }
}

/// Sends a request with a credential and a body of a type.
pub(crate) async fn request(
    to: SocketAddr,
    method: Method,
    path: &str,
    key: &str,
    body: (&str, Bytes),
) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{to}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", body.0)
        .body(Full::new(body.1))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = tokio::time::timeout(BOUND, client.request(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: parts.status, body }
}

fn plan(keys: &str, folder: &Path, server: &ModelServer) -> Plan {
    let address = server.http_address();
    let any = "127.0.0.1:0";
    let model = |name: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\nprotocol = \"openai\"\n\
             instances = [\"http://{address}\"]\n"
        )
    };
    let text = format!(
        "[server]\nhttp = \"{any}\"\ngrpc = \"{any}\"\nadmin = \"{any}\"\nmax_request_bytes = \"64KiB\"\n\
         [batch_api]\ndirectory = \"{}\"\n{keys}\n{}{}",
        folder.display(),
        model("embed"),
        model("chat"),
    );
    Plan::parse(&text, Path::new("models.toml")).unwrap()
}

async fn open(plan: &Plan) -> Running {
    let proxy = start(plan).await.unwrap();
    for model in proxy.models.current().values() {
        eventually(async || model.is_ready()).await;
    }
    proxy
}

pub(crate) fn form(fields: &[(&str, &str)], filename: &str, content: &[u8]) -> (String, Bytes) {
    const BOUNDARY: &str = "a-boundary-of-a-form";
    let mut body = Vec::new();
    for (name, value) in fields {
        let head =
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(format!("{value}\r\n").as_bytes());
    }
    let head = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
         content-type: application/octet-stream\r\n\r\n"
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body.into())
}

pub(crate) fn line(custom_id: &str, endpoint: &str, body: &Value) -> String {
    let line = json!({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body});
    format!("{line}\n")
}

fn embed(range: std::ops::Range<usize>) -> String {
    let body = |index| json!({"model": "embed", "input": format!("text {index}")});
    range.map(|index| line(&format!("c-{index}"), EMBEDDINGS, &body(index))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_line_by_line() {
    let office = Office::new("", Settings::default()).await;
    let batch = office.begin(EMBEDDINGS, &embed(0..300)).await;
    assert_eq!((&batch["object"], &batch["endpoint"]), (&json!("batch"), &json!(EMBEDDINGS)));
    assert_eq!(batch["metadata"], json!({"for": "a test"}));
    let done = office.until(&batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 300, "completed": 300, "failed": 0}));
    assert_eq!((&done["model"], &done["error_file_id"]), (&json!("embed"), &Value::Null));
    assert_eq!(done["usage"]["input_tokens"], json!(600));
    for time in ["created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at"] {
        assert!(done[time].is_u64(), "{time} in {done}");
    }
    assert_eq!(
        done["expires_at"].as_u64().unwrap() - done["created_at"].as_u64().unwrap(),
        24 * 3600
    );
    let lines = office.lines(&done["output_file_id"]).await;
    assert_eq!(lines.len(), 300);
    for index in 0..300 {
        let line = &lines[&format!("c-{index}")];
        assert_eq!((&line["error"], &line["response"]["status_code"]), (&Value::Null, &json!(200)));
        assert_eq!(line["id"], line["response"]["request_id"]);
        let vector = line["response"]["body"]["data"][0]["embedding"].clone();
        let vector: Vec<f32> = serde_json::from_value(vector).unwrap();
        assert_eq!(vector, embedding_of(&format!("text {index}"), 8));
    }
    let seen = office.server.statistics();
    assert!(seen.largest_batch > 1, "lines share batches: {:?}", seen.batch_sizes);
    let metrics = office.proxy.metrics();
    for expected in [
        "batchwise_batch_api_lines_total{outcome=\"completed\"} 300",
        "batchwise_batch_api_batches{status=\"completed\"} 1",
        "protocol=\"openai-batch\",priority=\"3\",outcome=\"ok\"} 300",
    ] {
        assert!(metrics.contains(expected), "{expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_lines_come_whole_and_wrong_ones_as_errors() {
    let office = Office::new("", Settings { poison: true, ..Settings::default() }).await;
    let chat =
        |text: &str| json!({"model": "chat", "messages": [{"role": "user", "content": text}]});
    let input = [
        line("good", CHAT, &chat("hi")),
        line("no messages", CHAT, &json!({"model": "chat"})),
        line("bad", CHAT, &chat("some poison")),
    ];
    let batch = office.begin(CHAT, &input.concat()).await;
    let done = office.until(&batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 3, "completed": 1, "failed": 2}));
    let output = office.lines(&done["output_file_id"]).await;
    let said = &output["good"]["response"]["body"]["choices"][0]["message"]["content"];
    assert_eq!(*said, json!(reply_to("hi")));
    let errors = office.lines(&done["error_file_id"]).await;
    for custom_id in ["no messages", "bad"] {
        let response = &errors[custom_id]["response"];
        assert_eq!(response["status_code"], 400, "{response}");
        assert!(response["body"]["error"]["message"].is_string(), "{response}");
    }
    assert_eq!(office.server.statistics().seen.len(), 2, "a refusal is final");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_and_failures_are_waited_out() {
    let office = Office::new("", Settings::default()).await;
    office.server.switches().set(|settings| {
        settings.overload = Trigger::Next(6);
        settings.overload_with.retry_after = None;
        settings.fail = Trigger::Next(3);
        settings.fail_with = FaultStatus::new(tonic::Code::Internal, 500, "broke");
    });
    let batch = office.begin(EMBEDDINGS, &embed(0..40)).await;
    let done = office.until(&batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 40, "completed": 40, "failed": 0}));
    assert_eq!(office.lines(&done["output_file_id"]).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_input_fails_before_anything_runs() {
    let office = Office::new("max_lines = 5", Settings::default()).await;
    let fine = embed(0..1);
    for (input, code, at) in [
        (format!("{fine}{fine}"), "duplicate_custom_id", json!(2)),
        (format!("{fine}{{"), "invalid_json_line", json!(2)),
        (line("a", CHAT, &json!({"model": "embed"})), "url_mismatch", json!(1)),
        (line("a", EMBEDDINGS, &json!({"model": "none"})), "model_not_found", json!(1)),
        (
            line("a", EMBEDDINGS, &json!({"model": "embed", "stream": true})),
            "invalid_parameter",
            json!(1),
        ),
        (embed(0..6), "too_many_tasks", Value::Null),
        (format!("\n{}", "x".repeat(80_000)), "line_too_long", json!(2)),
        (String::new(), "empty_file", Value::Null),
    ] {
        let batch = office.begin(EMBEDDINGS, &input).await;
        let failed = office.until(&batch["id"], "failed").await;
        assert!(failed["failed_at"].is_u64());
        assert_eq!(failed["errors"]["object"], "list");
        let error = &failed["errors"]["data"][0];
        assert_eq!((&error["code"], &error["line"]), (&json!(code), &at), "{error}");
    }
    assert_eq!(office.server.statistics().executions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_keeps_what_was_answered() {
    let service = ServiceTime::linear(Duration::from_millis(5), Duration::ZERO);
    let office =
        Office::new("max_concurrent_lines = 2", Settings { service, ..Settings::default() }).await;
    let batch = office.begin(EMBEDDINGS, &embed(0..2000)).await;
    eventually(async || {
        office.batch(&batch["id"]).await["request_counts"]["completed"].as_u64() > Some(3)
    })
    .await;
    let path = format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap());
    let answer = office.post(&path, &json!({})).await.ok();
    assert!(["cancelling", "cancelled"].contains(&answer["status"].as_str().unwrap()), "{answer}");
    let done = office.until(&batch["id"], "cancelled").await;
    let completed = done["request_counts"]["completed"].as_u64().unwrap();
    assert!((4..2000).contains(&completed), "{done}");
    assert!(done["cancelling_at"].is_u64() && done["cancelled_at"].is_u64());
    assert_eq!(office.lines(&done["output_file_id"]).await.len() as u64, completed);
    assert_eq!(done["error_file_id"], Value::Null);
    assert!(office.post(&path, &json!({})).await.error(400)["message"].is_string());
    eventually(async || office.proxy.models.open_calls().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_runs_out_of_time_says_of_each_line_what_became_of_it() {
    let office = Office::new("", Settings::default()).await;
    office.server.switches().set(|settings| settings.hang = true);
    let mut office = office
        .restart(|plan| {
            let plan = plan.batch_api.as_mut().unwrap();
            plan.completion_window = Duration::from_secs(3);
            plan.max_concurrent_lines = 2;
        })
        .await;
    let batch = office.begin(EMBEDDINGS, &embed(0..50)).await;
    let done = office.until(&batch["id"], "expired").await;
    office.server.switches().set(|settings| settings.hang = false);
    assert_eq!(done["request_counts"], json!({"total": 50, "completed": 0, "failed": 50}));
    assert_eq!((&done["output_file_id"], done["expired_at"].is_u64()), (&Value::Null, true));
    let errors = office.lines(&done["error_file_id"]).await;
    assert_eq!(errors.len(), 50);
    for line in errors.values() {
        assert_eq!(
            (&line["error"]["code"], &line["response"]),
            (&json!("batch_expired"), &Value::Null)
        );
    }
    office = office.restart(|_| {}).await;
    assert_eq!(office.batch(&batch["id"]).await, done, "what has ended is the same after a start");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_after_a_stop() {
    let service = ServiceTime::linear(Duration::from_millis(2), Duration::ZERO);
    let mut office =
        Office::new("max_concurrent_lines = 4", Settings { service, ..Settings::default() }).await;
    let batch = office.begin(EMBEDDINGS, &embed(0..600)).await;
    for least in [20, 60] {
        eventually(async || {
            office.batch(&batch["id"]).await["request_counts"]["completed"].as_u64() > Some(least)
        })
        .await;
        office =
            office.restart(|plan| plan.batch_api.as_mut().unwrap().max_concurrent_lines = 4).await;
    }
    let done = office.until(&batch["id"], "completed").await;
    assert_eq!(done["request_counts"], json!({"total": 600, "completed": 600, "failed": 0}));
    assert_eq!(office.lines(&done["output_file_id"]).await.len(), 600);
    // What ran when the process was told to stop was answered and written, so nothing ran twice.
    assert_eq!(office.server.statistics().rows, 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_listed_read_and_deleted() {
    let office = Office::new("max_file_bytes = 1000", Settings::default()).await;
    let (content_type, body) = form(
        &[
            ("purpose", "batch"),
            ("expires_after[anchor]", "created_at"),
            ("expires_after[seconds]", "3600"),
        ],
        "../../etc/in \"put\".jsonl",
        b"one\r\ntwo\xff",
    );
    let file = office.send(Method::POST, "/v1/files", "k", (&content_type, body)).await.ok();
    assert_eq!(
        (&file["object"], &file["bytes"], &file["status"]),
        (&json!("file"), &json!(9), &json!("processed"))
    );
    assert_eq!(file["expires_at"].as_u64().unwrap() - file["created_at"].as_u64().unwrap(), 3600);
    let id = file["id"].as_str().unwrap();
    assert_eq!(office.get(&format!("/v1/files/{id}")).await.ok(), file);
    assert_eq!(office.get(&format!("/v1/files/{id}/content")).await.body, &b"one\r\ntwo\xff"[..]);
    let second = office.upload("second").await.ok();
    let list = office.get("/v1/files?limit=1").await.ok();
    assert_eq!((&list["data"][0], &list["has_more"]), (&second, &json!(true)));
    let list =
        office.get(&format!("/v1/files?after={}", second["id"].as_str().unwrap())).await.ok();
    assert_eq!((&list["data"], &list["has_more"]), (&json!([file]), &json!(false)));
    assert_eq!((&list["first_id"], &list["last_id"]), (&json!(id), &json!(id)));
    assert_eq!(office.get("/v1/files?purpose=batch_output").await.ok()["data"], json!([]));
    let deleted =
        office.send(Method::DELETE, &format!("/v1/files/{id}"), "k", ("", Bytes::new())).await;
    assert_eq!(deleted.ok(), json!({"id": id, "object": "file", "deleted": true}));
    office.get(&format!("/v1/files/{id}")).await.error(404);
    office.upload(&"x".repeat(1001)).await.error(413);
    for (fields, missing) in [(vec![("purpose", "fine-tune")], "purpose"), (vec![], "purpose")] {
        let (content_type, body) = form(&fields, "x", b"x");
        let reply = office.send(Method::POST, "/v1/files", "k", (&content_type, body)).await;
        assert_eq!(reply.error(400)["param"], missing);
    }
    let plain = office.send(Method::POST, "/v1/files", "k", ("text/plain", "x".into())).await;
    assert_eq!(plain.error(400)["param"], "content-type");
    let torn = "multipart/form-data; boundary=b";
    let head = Bytes::from(format!("--b\r\nx: {}", "y".repeat(900)));
    office.send(Method::POST, "/v1/files", "k", (torn, head)).await.error(400);
    let kept = || std::fs::read_dir(office.folder.0.join("files")).unwrap().count();
    eventually(async || kept() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_is_not_there() {
    let mut office = Office::new("", Settings::default()).await;
    let batch = office.begin(EMBEDDINGS, &embed(0..3)).await;
    let done = office.until(&batch["id"], "completed").await;
    // Who has what outlives the process.
    office = office.restart(|_| {}).await;
    let batch = done["id"].as_str().unwrap();
    let (input, output) =
        (done["input_file_id"].as_str().unwrap(), done["output_file_id"].as_str().unwrap());
    for (method, path) in [
        (Method::GET, format!("/v1/batches/{batch}")),
        (Method::POST, format!("/v1/batches/{batch}/cancel")),
        (Method::GET, format!("/v1/files/{input}")),
        (Method::GET, format!("/v1/files/{output}/content")),
        (Method::DELETE, format!("/v1/files/{output}")),
    ] {
        let reply = office.send(method, &path, "other", ("", Bytes::new())).await;
        assert_eq!(reply.error(404)["type"], "invalid_request_error");
    }
    let wanted =
        json!({"input_file_id": input, "endpoint": EMBEDDINGS, "completion_window": "24h"});
    let body = ("application/json", wanted.to_string().into());
    office.send(Method::POST, "/v1/batches", "other", body).await.error(400);
    for path in ["/v1/batches", "/v1/files"] {
        let list = office.send(Method::GET, path, "other", ("", Bytes::new())).await.ok();
        assert_eq!(list["data"], json!([]));
    }
    assert_eq!(office.get("/v1/files").await.ok()["data"].as_array().unwrap().len(), 2);
    for id in ["..%2f..%2fkey", "%00", &"x".repeat(3000), "file-..", "file-%2e%2e%2fkey"] {
        office.get(&format!("/v1/files/{id}/content")).await.error(404);
        office.get(&format!("/v1/batches/{id}")).await.error(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_a_batch_that_makes_no_sense_names_the_field() {
    let office = Office::new("", Settings::default()).await;
    let file = office.upload("x").await.ok();
    let good = json!({"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"});
    for (field, value) in [
        ("input_file_id", json!("file-none")),
        ("input_file_id", json!(null)),
        ("endpoint", json!("/v1/files")),
        ("completion_window", json!("1h")),
        ("metadata", json!({"a": 1})),
        ("metadata", json!({"a": "x".repeat(513)})),
        ("output_expires_after", json!({"anchor": "created_at", "seconds": 1})),
    ] {
        let mut wanted = good.clone();
        wanted[field] = value;
        assert_eq!(office.post("/v1/batches", &wanted).await.error(400)["param"], field);
    }
    office.post("/v1/batches", &json!([1])).await.error(400);
    office.get("/v1/batches?limit=0").await.error(400);
    office.get("/v1/batches?after=nothing").await.error(400);
    assert_eq!(office.get("/v1/batches").await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_unless_switched_on_and_one_process_has_a_directory() {
    let office = Office::new("", Settings::default()).await;
    let again = start(&plan("", &office.folder.0, &office.server)).await;
    assert!(again.unwrap_err().to_string().contains("used by another process"));
    let mut without = plan("", &office.folder.0, &office.server);
    without.batch_api = None;
    let Office { server, folder, proxy } = office;
    proxy.drain(Duration::from_secs(2)).await;
    let office = Office { server, folder, proxy: open(&without).await };
    for path in ["/v1/files", "/v1/batches", "/v1/files/x/content", "/v1/batches/x"] {
        let error = office.get(path).await.error(404);
        assert!(error["message"].as_str().unwrap().contains("[batch_api]"), "{error}");
    }
    office.upload("x").await.error(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_lines_wait_and_live_calls_go_before_them() {
    let service = ServiceTime::linear(Duration::from_millis(10), Duration::ZERO);
    let settings = Settings { service, max_batch_size: 8, ..Settings::default() };
    let office = Office::new("", settings).await;
    let batch = office.begin(EMBEDDINGS, &embed(0..2000)).await;
    let completed =
        async || office.batch(&batch["id"]).await["request_counts"]["completed"].as_u64().unwrap();
    eventually(async || completed().await > 400).await;
    let mut passed = Vec::new();
    for index in 0..40 {
        let status = office.proxy.models.get("embed").unwrap().status().await.unwrap();
        // 256 lines could: eight batches are under way or wait at most.
        assert!(status.waiting.iter().sum::<u32>() <= 64, "{:?}", status.waiting);
        let before = office.server.statistics().executions;
        let call = json!({"model": "embed", "input": format!("live {index}")});
        office.post(EMBEDDINGS, &call).await.ok();
        passed.push(office.server.statistics().executions - before);
    }
    assert!(completed().await < 2000, "the batch ran all the time");
    passed.sort_unstable();
    // Its own batch and one or two that were under way, and not the eight that wait; but for what the
    // machine is busy with besides.
    assert!(passed[10] <= 4, "batches while each was served: {passed:?}");
    let done = office.until(&batch["id"], "completed").await;
    assert_eq!(done["request_counts"]["completed"], 2000);
}
