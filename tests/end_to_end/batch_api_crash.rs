//! A batch through a process that is killed again and again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::batch_api::{Folder, Reply, form, line, request};
use crate::model_server::{ModelServer, Options, ServiceTime, Settings, embedding_of};
use crate::stage::BOUND;

const LINES: usize = 10_000;
/// Every so manieth line is one that the model refuses.
const POISONED: usize = 97;

/// The program itself, in a process of its own.
struct Batchwise {
    child: Child,
    http: SocketAddr,
}

impl Batchwise {
    /// Starts it and waits until it says where it listens.
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_batchwise"))
            .args(["serve", "--log-format", "json", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let http = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            let said: Value = serde_json::from_str(&line).unwrap();
            let place = said.pointer("/fields/http").or(said.get("http"));
            if let Some(http) = place.and_then(Value::as_str) {
                break http.parse().unwrap();
            }
        };
        // Nobody reads on: a full pipe must not hold it up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, http }
    }

    /// Ends it as the kernel does when memory runs out.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn get(&self, path: &str) -> Reply {
        request(self.http, http::Method::GET, path, "k", ("text/plain", Default::default())).await
    }

    /// Requests that are answered, and the status.
    async fn progress(&self, batch: &str) -> (u64, String) {
        let batch = self.get(&format!("/v1/batches/{batch}")).await.ok();
        let counts = &batch["request_counts"];
        let answered = counts["completed"].as_u64().unwrap() + counts["failed"].as_u64().unwrap();
        (answered, batch["status"].as_str().unwrap().to_owned())
    }

    /// Waits until so many requests are answered, or the batch is done.
    async fn reaches(&self, batch: &str, least: u64) {
        let waits = async {
            loop {
                let (answered, status) = self.progress(batch).await;
                if answered >= least || status == "completed" {
                    return;
                }
                // Whoever asks without a pause keeps it from its work.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(6 * BOUND, waits).await.expect("it got no further");
    }
}

impl Drop for Batchwise {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn text_of(index: usize) -> String {
    if index % POISONED == 5 { format!("poison {index}") } else { format!("text {index}") }
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_answered_once_though_the_process_is_killed_again_and_again() {
    let service = ServiceTime::linear(Duration::from_millis(3), Duration::from_micros(500));
    let settings = Settings { service, poison: true, ..Settings::default() };
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let folder = Folder::new();
    let config = folder.0.join("models.toml");
    let text = format!(
        "[server]\nhttp = \"127.0.0.1:0\"\ngrpc = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [batch_api]\ndirectory = \"kept\"\n[[model]]\nname = \"embed\"\nprotocol = \"openai\"\n\
         instances = [\"http://{}\"]\n",
        server.http_address()
    );
    std::fs::write(&config, text).unwrap();
    let input: String = (0..LINES)
        .map(|index| {
            let body = json!({"model": "embed", "input": text_of(index)});
            line(&index.to_string(), "/v1/embeddings", &body)
        })
        .collect();

    let mut process = Batchwise::start(&config);
    let (content_type, body) = form(&[("purpose", "batch")], "in.jsonl", input.as_bytes());
    let post = async |path: &str, content_type: &str, body| {
        request(process.http, http::Method::POST, path, "k", (content_type, body)).await.ok()
    };
    let file = post("/v1/files", &content_type, body).await;
    let wanted = json!({"input_file_id": file["id"], "endpoint": "/v1/embeddings",
                        "completion_window": "24h"});
    let batch = post("/v1/batches", "application/json", wanted.to_string().into()).await;
    let batch = batch["id"].as_str().unwrap();

    let (mut least, mut killed_at_work) = (0, 0);
    for _ in 0..4 {
        killed_at_work += u32::from(process.progress(batch).await.1 != "completed");
        process.kill();
        process = Batchwise::start(&config);
        least += 1 + random(LINES as u64 / 4);
        process.reaches(batch, least).await;
    }
    assert!(killed_at_work >= 3, "the batch was done before it could be disturbed");
    process.reaches(batch, LINES as u64 + 1).await;

    let done = process.get(&format!("/v1/batches/{batch}")).await.ok();
    let poisoned = (0..LINES).filter(|index| index % POISONED == 5).count();
    let counts = json!({"total": LINES, "completed": LINES - poisoned, "failed": poisoned});
    assert_eq!(done["request_counts"], counts);
    let mut answered = BTreeSet::new();
    for key in ["output_file_id", "error_file_id"] {
        let path = format!("/v1/files/{}/content", done[key].as_str().unwrap());
        let content = process.get(&path).await;
        for line in std::str::from_utf8(&content.body).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let index: usize = line["custom_id"].as_str().unwrap().parse().unwrap();
            assert!(answered.insert(index), "line {index} was answered twice");
            let response = &line["response"];
            if key == "error_file_id" {
                assert_eq!((&response["status_code"], index % POISONED), (&json!(400), 5));
                continue;
            }
            let vector = response["body"]["data"][0]["embedding"].clone();
            let vector: Vec<f32> = serde_json::from_value(vector).unwrap();
            assert_eq!(vector, embedding_of(&text_of(index), 8), "line {index}");
        }
    }
    assert_eq!(answered.len(), LINES);
}
