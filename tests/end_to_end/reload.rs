//! The configuration changes while calls are under way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use batchwise::app::{Origin, Running, start_from};
use batchwise::config::{self, Overrides};
use batchwise::engine::Drained;
use batchwise::front::ReloadError;
use batchwise::wire::pb;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::model_server::{ModelServer, Options, ServiceTime, Settings, reply_to};
use crate::stage::{BOUND, Client, ask, client, eventually, proxy, request};

/// A proxy that has read its configuration from a file.
struct Configured {
    file: PathBuf,
    proxy: Running,
}

impl Configured {
    /// Starts a proxy with a file of its own, whose name is that of the test.
    async fn new(test: &str, models: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("models.toml");
        write(&file, models);
        Self { proxy: proxy_of(&file).await, file }
    }

    /// Changes the file and reloads it.
    async fn reload(&self, models: &str) -> Value {
        write(&self.file, models);
        let reloaded = tokio::time::timeout(BOUND, self.proxy.reload()).await.unwrap();
        serde_json::to_value(reloaded.unwrap()).unwrap()
    }

    async fn admin(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let client = HttpClient::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{}{path}", self.proxy.admin);
        let request = Request::builder().method(method).uri(uri).body(Full::<Bytes>::default());
        let reply = tokio::time::timeout(BOUND, client.request(request.unwrap())).await;
        let (parts, body) = reply.unwrap().unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, serde_json::from_slice(&body).unwrap())
    }
}

async fn proxy_of(file: &Path) -> Running {
    let overrides = Overrides::default();
    let loaded = config::load(Some(file), &overrides).unwrap();
    start_from(Origin::of(&loaded, file, overrides), &loaded.plan).await.unwrap()
}

/// Replaces the file as an editor does: there is no moment without one, nor with half of one.
fn write(file: &Path, models: &str) {
    let any = "127.0.0.1:0";
    let text = format!("[server]\nhttp = \"{any}\"\ngrpc = \"{any}\"\nadmin = \"{any}\"\n{models}");
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A `[[model]]` that these servers serve as `linear`.
fn model(name: &str, servers: &[&ModelServer], keys: &str) -> String {
    let addresses: Vec<_> =
        servers.iter().map(|server| format!("\"http://{}\"", server.grpc_address())).collect();
    format!(
        "[[model]]\nname = \"{name}\"\nprotocol = \"kserve-grpc\"\nupstream_name = \"linear\"\n\
         instances = [{}]\n{keys}\n",
        addresses.join(", ")
    )
}

async fn server(settings: Settings) -> ModelServer {
    ModelServer::start(Options { settings, ..Options::default() }).await.unwrap()
}

fn taking(millis: u64, max_batch_size: u32) -> Settings {
    let service = ServiceTime::linear(Duration::from_millis(millis), Duration::ZERO);
    Settings { service, max_batch_size, ..Settings::default() }
}

/// Asks a model and checks the answer.
async fn ask_model(client: &mut Client, name: &str, number: usize) -> Result<(), Status> {
    let request = pb::ModelInferRequest {
        model_name: name.to_owned(),
        ..request(1 + number % 3, 4, number as f32)
    };
    ask(client, request).await
}

/// Callers that each call again as soon as they are answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Status>>,
}

impl Load {
    async fn start(proxy: &Running, name: &'static str, callers: usize) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let connection = client(proxy).await;
        let mut load = JoinSet::new();
        for caller in 0..callers {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let mut client = connection.clone();
            load.spawn(async move {
                let mut failed = Vec::new();
                let mut number = caller;
                while !stop.load(Ordering::Relaxed) {
                    if let Err(status) = ask_model(&mut client, name, number).await {
                        failed.push(status);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    number += callers;
                }
                failed
            });
        }
        Self { stop, answered, callers: load }
    }

    /// Waits until so many more calls have been answered.
    async fn goes_on(&self, calls: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(async || self.answered.load(Ordering::Relaxed) >= before + calls).await;
    }

    /// Ends the load. Returns what failed.
    async fn end(self) -> Vec<Status> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::time::timeout(BOUND, self.callers.join_all()).await.unwrap().concat()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_instances_come_change_and_go_and_no_call_fails() {
    let servers = [server(taking(2, 8)).await, server(taking(3, 4)).await];
    let [first, second] = &servers;
    let stays = model("stays", &[first], "");
    let with = |changes: &str| [stays.as_str(), changes].concat();
    let site = Configured::new("come_and_go", &with(&model("changes", &[first], ""))).await;
    let same = site.proxy.models.get("stays").unwrap();
    let loads =
        [Load::start(&site.proxy, "changes", 16).await, Load::start(&site.proxy, "stays", 4).await];
    let mut client = client(&site.proxy).await;
    for round in 0..3 {
        for (servers, keys) in [
            (&[first, second][..], "max_batch_size = 3"),
            (&[second], "slo = \"5s\"\nmax_queue_size = 1000"),
            (&[second, first], "max_queue_delay = \"1ms\""),
            (&[first], "priority_levels = 5"),
        ] {
            let changed = model("changes", servers, keys);
            let reloaded =
                site.reload(&with(&[changed, model("extra", servers, "")].concat())).await;
            let added: &[&str] = if keys == "max_batch_size = 3" { &["extra"] } else { &[] };
            assert_eq!((&reloaded["added"], &reloaded["unchanged"]), (&json!(added), &json!(1)));
            assert_eq!(reloaded["not_ready"], json!([]));
            ask_model(&mut client, "extra", round).await.unwrap();
            for load in &loads {
                load.goes_on(30).await;
            }
        }
        let reloaded = site.reload(&with(&model("changes", &[first], ""))).await;
        let expected = json!({"added": [], "removed": ["extra"], "changed": ["changes"],
            "unchanged": 1, "applied": [], "needs_restart": [], "not_ready": []});
        assert_eq!(reloaded, expected);
        let status = ask_model(&mut client, "extra", round).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    for load in loads {
        let failed = load.end().await;
        assert!(failed.is_empty(), "{failed:?}");
    }
    assert!(Arc::ptr_eq(&same, &site.proxy.models.get("stays").unwrap()));
    let statistics = site.proxy.models.get("changes").unwrap().statistics();
    assert!(statistics.success.count >= 3 * 5 * 30, "what was done stays counted: {statistics:?}");
}

/// Sends so many calls and waits until they all wait or run.
async fn accepted(
    site: &Configured,
    name: &'static str,
    calls: usize,
) -> JoinSet<Result<(), Status>> {
    let connection = client(&site.proxy).await;
    let mut accepted = JoinSet::new();
    for number in 0..calls {
        let mut client = connection.clone();
        accepted.spawn(async move { ask_model(&mut client, name, 3 * number).await });
    }
    eventually(async || {
        let status = site.proxy.models.get(name).unwrap().status().await.unwrap();
        let running: u32 = status.instances.iter().map(|instance| instance.in_flight).sum();
        status.waiting_rows + u64::from(running) == calls as u64
    })
    .await;
    accepted
}

async fn all_answered(calls: JoinSet<Result<(), Status>>) {
    for outcome in tokio::time::timeout(BOUND, calls.join_all()).await.unwrap() {
        outcome.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_when_their_model_changes_or_goes_are_answered() {
    let (slow, quick) = (server(taking(20, 1)).await, server(taking(1, 8)).await);
    let other = model("other", &[&quick], "");
    let one_slot = "max_concurrency = 1";
    let with = |changes: &str| [other.as_str(), changes].concat();
    let site = Configured::new("waiting", &with(&model("changes", &[&slow], one_slot))).await;
    let before_the_change = accepted(&site, "changes", 20).await;
    site.reload(&with(&model("changes", &[&quick], one_slot))).await;
    let mut client = client(&site.proxy).await;
    ask_model(&mut client, "changes", 1).await.unwrap();
    assert!(!before_the_change.is_empty(), "new calls do not wait for old ones");
    all_answered(before_the_change).await;
    site.reload(&with(&model("changes", &[&slow], one_slot))).await;
    let before_it_goes = accepted(&site, "changes", 20).await;
    site.reload(&other).await;
    let status = ask_model(&mut client, "changes", 1).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    all_answered(before_it_goes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_models_that_are_served_no_more() {
    let (slow, quick) = (server(taking(20, 1)).await, server(taking(1, 8)).await);
    let both = [model("goes", &[&slow], "max_concurrency = 1"), model("stays", &[&quick], "")];
    let site = Configured::new("drain", &both.concat()).await;
    let calls = accepted(&site, "goes", 20).await;
    site.reload(&both[1]).await;
    let drained = tokio::time::timeout(BOUND, site.proxy.drain(BOUND)).await.unwrap();
    assert_eq!(drained, Drained::Clean);
    all_answered(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_when_its_model_changes_and_goes() {
    let settings = Settings { token_interval: Duration::from_millis(10), ..Settings::default() };
    let server = server(settings).await;
    let chat = |keys: &str| {
        format!(
            "[[model]]\nname = \"chat\"\nprotocol = \"openai\"\n\
             instances = [\"http://{}\"]\n{keys}\n",
            server.http_address()
        )
    };
    let other = model("other", &[&server], "");
    let site = Configured::new("stream", &[chat(""), other.clone()].concat()).await;
    let prompt = vec!["word"; 60].join(" ");
    let body = json!({"model": "chat", "stream": true,
        "messages": [{"role": "user", "content": prompt}]});
    let request = Request::post(format!("http://{}/v1/chat/completions", site.proxy.http))
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body.to_string()))
        .unwrap();
    let reader = HttpClient::builder(TokioExecutor::new()).build_http();
    let mut events = reader.request(request).await.unwrap().into_body();
    let mut text = Vec::new();
    let mut read = async |text: &mut Vec<u8>| {
        let frame = tokio::time::timeout(BOUND, events.frame()).await.unwrap();
        let data = frame.map(|frame| frame.unwrap().into_data().unwrap());
        data.map(|data| text.extend_from_slice(&data)).is_some()
    };
    assert!(read(&mut text).await);
    site.reload(&[chat("timeout = \"29s\""), other.clone()].concat()).await;
    assert!(read(&mut text).await);
    site.reload(&other).await;
    let seen = text.len();
    while read(&mut text).await {}
    assert!(text.len() > seen, "the stream outlasts both reloads");
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let pieces = text.split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let pieces: String = pieces
        .map(|event| serde_json::from_str::<Value>(&format!("{{{event}")).unwrap())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(pieces, reply_to(&prompt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let server = server(Settings::default()).await;
    let good = model("linear", &[&server], "");
    let site = Configured::new("bad", &good).await;
    let mut client = client(&site.proxy).await;
    let same = site.proxy.models.get("linear").unwrap();
    let missing = "[[model]]\nname = \"onnx\"\nprotocol = \"embedded\"\n\
                   instances = [\"onnx:missing.onnx\"]\n";
    for (bad, expected) in [
        (model("linear", &[&server], "max_batch_sise = 2"), "models.toml:10: unknown key"),
        ("[[model]".to_owned(), "not valid TOML"),
        ([good.as_str(), missing].concat(), "missing.onnx cannot be read"),
    ] {
        write(&site.file, &bad);
        let (status, reply) = site.admin(Method::POST, "/api/reload").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let error = reply["error"].as_str().unwrap();
        assert!(error.contains(expected), "{error}");
        let (_, status) = site.admin(Method::GET, "/api/status").await;
        assert_eq!(status["config"]["last_error"], reply["error"]);
        assert!(Arc::ptr_eq(&same, &site.proxy.models.get("linear").unwrap()));
        assert_eq!(site.proxy.models.current().len(), 1);
        ask_model(&mut client, "linear", 1).await.unwrap();
    }
    let page = site.proxy.metrics();
    assert!(page.contains("batchwise_config_last_reload_success 0"), "{page}");
    std::fs::remove_file(&site.file).unwrap();
    let gone = site.proxy.reload().await.unwrap_err();
    assert!(matches!(&gone, ReloadError::Refused(why) if why.contains("cannot be read")), "{gone}");
    assert_eq!(site.reload(&good).await["unchanged"], 1);
    let (_, status) = site.admin(Method::GET, "/api/status").await;
    assert_eq!(status["config"]["last_error"], Value::Null);
    assert_eq!(status["config"]["path"], site.file.display().to_string());
    assert!(status["config"]["loaded_at"].as_u64().unwrap() > 0);
    assert!(site.proxy.metrics().contains("batchwise_config_last_reload_success 1"));
    assert!(Arc::ptr_eq(&same, &site.proxy.models.get("linear").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_there_is_nothing_to_reload() {
    let server = server(Settings::default()).await;
    let text = model("linear", &[&server], "");
    let site = Configured { proxy: proxy(&text).await, file: PathBuf::new() };
    let (status, reply) = site.admin(Method::POST, "/api/reload").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(reply["error"].as_str().unwrap().contains("no configuration file"), "{reply}");
    let (_, status) = site.admin(Method::GET, "/api/status").await;
    assert_eq!(status["config"]["path"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_is_noticed() {
    let server = server(Settings::default()).await;
    let (one, two) = (model("one", &[&server], ""), model("two", &[&server], ""));
    let site = Configured::new("noticed", &one).await;
    let serves = async |names: &[&str]| {
        eventually(async || site.proxy.models.current().keys().eq(names)).await;
    };
    write(&site.file, &[one.as_str(), &two].concat());
    serves(&["one", "two"]).await;
    // In place, as some editors do.
    std::fs::write(&site.file, std::fs::read_to_string(&site.file).unwrap() + "timeout = \"9s\"\n")
        .unwrap();
    eventually(async || site.proxy.models.get("two").unwrap().plan().timeout.as_secs() == 9).await;
    write(&site.file, "[[model]");
    eventually(async || site.proxy.metrics().contains("reload_success 0")).await;
    serves(&["one", "two"]).await;
    write(&site.file, &two);
    serves(&["two"]).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_elsewhere_is_noticed() {
    use std::os::unix::fs::symlink;
    let server = server(Settings::default()).await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("link");
    drop(std::fs::remove_dir_all(&folder));
    // As Kubernetes mounts a ConfigMap: the file leads into a folder that is swapped whole.
    for (version, name) in [("v1", "one"), ("v2", "two")] {
        std::fs::create_dir_all(folder.join(version)).unwrap();
        write(&folder.join(version).join("models.toml"), &model(name, &[&server], ""));
    }
    symlink("v1", folder.join("..data")).unwrap();
    let file = folder.join("models.toml");
    symlink("..data/models.toml", &file).unwrap();
    let proxy = proxy_of(&file).await;
    assert!(proxy.models.get("one").is_some());
    symlink("v2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    eventually(async || proxy.models.current().keys().eq(["two"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_can_take_over_holds_at_once_and_the_rest_is_told() {
    let server = server(Settings::default()).await;
    let linear = model("linear", &[&server], "");
    let site = Configured::new("server_keys", &linear).await;
    let mut client = client(&site.proxy).await;
    ask(&mut client, request(1, 1000, 0.0)).await.unwrap();
    let keys = "max_request_bytes = \"1KiB\"\nshutdown_grace = \"3s\"\nmax_connections = 77\n";
    let reloaded = site.reload(&[keys, linear.as_str()].concat()).await;
    let applied = json!(["server.shutdown_grace", "server.max_request_bytes"]);
    assert_eq!(reloaded["applied"], applied);
    assert_eq!(reloaded["needs_restart"], json!(["server.max_connections"]));
    assert_eq!(site.proxy.shutdown_grace().as_secs(), 3);
    let status = ask(&mut client, request(1, 1000, 0.0)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    ask(&mut client, request(1, 10, 0.0)).await.unwrap();
    let again = site.reload(&[keys, linear.as_str()].concat()).await;
    assert_eq!(
        (&again["applied"], &again["needs_restart"]),
        (&json!([]), &reloaded["needs_restart"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_taken_out_stays_out_when_its_model_changes() {
    let servers = [server(Settings::default()).await, server(Settings::default()).await];
    let both = [&servers[0], &servers[1]];
    let site = Configured::new("taken_out", &model("linear", &both, "")).await;
    let address = servers[0].grpc_address().to_string().replace(':', "%3A");
    let route = format!("/api/models/linear/instances/{address}");
    let (status, reply) = site.admin(Method::POST, &format!("{route}/drain")).await;
    assert_eq!((status, &reply["drained"]), (StatusCode::OK, &json!(true)));
    site.reload(&model("linear", &both, "priority_levels = 4")).await;
    let load = Load::start(&site.proxy, "linear", 4).await;
    load.goes_on(50).await;
    assert_eq!(servers[0].statistics().executions, 0);
    let (status, _) = site.admin(Method::POST, &format!("{route}/resume")).await;
    assert_eq!(status, StatusCode::OK);
    servers[0].wait_until(|seen| seen.executions > 0, BOUND).await.unwrap();
    assert!(load.end().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_what_is_served() {
    let servers = [server(Settings::default()).await, server(Settings::default()).await];
    let [first, second] = &servers;
    let other = model("other", &[first], "");
    let with = |changes: &str| [other.as_str(), changes].concat();
    let site = Configured::new("gauges", &with(&model("linear", &[first, second], ""))).await;
    let healthy = |model: &str, server: &ModelServer| {
        let address = server.grpc_address();
        let series =
            format!("batchwise_instance_healthy{{model=\"{model}\",instance=\"{address}\"}} ");
        let page = site.proxy.metrics();
        page.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("none").to_owned()
    };
    eventually(async || servers.iter().all(|server| healthy("linear", server) == "1")).await;
    site.reload(&with(&model("linear", &[second], ""))).await;
    eventually(async || healthy("linear", first) == "none").await;
    assert_eq!(healthy("linear", second), "1");
    site.reload(&other).await;
    eventually(async || healthy("linear", second) == "none").await;
    assert_eq!(healthy("other", first), "1");
}
