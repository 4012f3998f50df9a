//! Models that answer in place of another: canaries and those that step in.

use batchwise::app::Running;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::model_server::{FaultStatus, ModelServer, Options, Settings, Trigger};
use crate::stage::{BOUND, eventually, proxy};

/// Three models, each with a server of its own.
struct Models {
    proxy: Running,
    servers: [ModelServer; 3],
    client: Client<HttpConnector, Full<Bytes>>,
}

const NAMES: [&str; 3] = ["named", "second", "third"];

impl Models {
    async fn new(routing: &str, settings: [Settings; 3]) -> Self {
        let mut servers = Vec::new();
        let mut text = String::new();
        for (name, settings) in NAMES.into_iter().zip(settings) {
            let options = Options { settings, parallelism: 64, ..Options::default() };
            let server = ModelServer::start(options).await.unwrap();
            let address = server.http_address();
            text += &format!(
                "[[model]]\nname = \"{name}\"\nprotocol = \"openai\"\n\
                 instances = [\"http://{address}\"]\nupstream_name = \"chat\"\n"
            );
            text += &match name {
                "named" => format!("[model.routing]\n{routing}\n"),
                _ => "priority_levels = 2\n".to_owned(),
            };
            servers.push(server);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let proxy = proxy(&text).await;
        let is_ready = |name| proxy.models.get(name).is_some_and(|model| model.is_ready());
        eventually(async || NAMES.iter().all(|name| is_ready(name))).await;
        let Ok(servers) = servers.try_into() else { unreachable!("there are three") };
        Self { proxy, servers, client }
    }

    async fn ask(&self, stream: bool, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let content = json!([{"role": "user", "content": "a b c"}]);
        let body: Value = json!({"model": "named", "stream": stream, "messages": content});
        let uri = format!("http://{}/v1/chat/completions", self.proxy.http);
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.to_string().into())).unwrap();
        let answered = async {
            let (head, body) = self.client.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (head.status, String::from_utf8(body.to_vec()).unwrap())
        };
        tokio::time::timeout(BOUND, answered).await.unwrap()
    }

    fn calls(&self) -> [u64; 3] {
        self.servers.each_ref().map(|server| server.statistics().calls)
    }
}

fn fails() -> Settings {
    Settings { fail: Trigger::Always, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_steps_in_for_one_whose_instances_fail() {
    let routing = "fallback = [\"second\", \"third\"]";
    let models = Models::new(routing, [fails(), fails(), Settings::default()]).await;
    for stream in [false, true] {
        let (status, text) = models.ask(stream, &[]).await;
        assert_eq!(status, 200, "{text}");
        assert!(!stream || text.ends_with("data: [DONE]\n\n"), "{text}");
    }
    assert_eq!(models.calls()[2], 2);
    assert!(models.calls()[0] > 0 && models.calls()[1] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_has_the_last_word_and_what_is_wrong_with_a_request_the_first() {
    let models = Models::new("fallback = [\"second\"]", [fails(), fails(), fails()]).await;
    assert_eq!(models.ask(false, &[]).await.0, 500);
    let tried = models.calls();
    assert!(tried[1] > 0 && tried[2] == 0, "{tried:?}");
    models.servers[0].switches().set(|settings| {
        settings.fail_with = FaultStatus::new(tonic::Code::InvalidArgument, 400, "no");
    });
    eventually(async || models.ask(false, &[]).await.0 == 400).await;
    let before = models.calls();
    assert_eq!(models.ask(false, &[]).await.0, 400);
    assert_eq!(models.calls()[1], before[1], "nobody else is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_has_its_share_and_whole_sessions() {
    let routing = "canary = \"second\"\ncanary_share = 0.3";
    let models = Models::new(routing, Default::default()).await;
    for index in 0..60 {
        let session = format!("session {index}");
        let before = models.calls();
        for _ in 0..3 {
            assert_eq!(models.ask(false, &[("x-session-id", &session)]).await.0, 200);
        }
        let after = models.calls();
        let rise = [after[0] - before[0], after[1] - before[1]];
        assert!(rise == [3, 0] || rise == [0, 3], "{rise:?}");
    }
    let [named, canary, other] = models.calls();
    assert!(canary > 12 && named > canary && other == 0, "{named} and {canary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_hurts_nobody() {
    let routing = "canary = \"second\"\ncanary_share = 1.0";
    let models = Models::new(routing, [Settings::default(), fails(), fails()]).await;
    for _ in 0..10 {
        assert_eq!(models.ask(true, &[]).await.0, 200);
    }
    let [named, canary, _] = models.calls();
    assert!(named == 10 && canary > 0, "{named} and {canary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_is_one_of_the_model_that_is_named_and_fits_whoever_steps_in() {
    let routing = "fallback = [\"second\"]";
    let models = Models::new(routing, [fails(), Settings::default(), fails()]).await;
    assert_eq!(models.ask(false, &[("x-request-priority", "3")]).await.0, 200);
    let (status, text) = models.ask(false, &[("x-request-priority", "4")]).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("1 (the most urgent) to 3"), "{text}");
}
