//! Chats whose servers or callers are not what they should be: which server gets them, for how long, and
//! what is made of those that fail.

use std::time::Duration;

use batchwise::app::Running;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::model_server::{FaultStatus, ModelServer, Options, Settings, Trigger};
use crate::stage::{BOUND, eventually, proxy};

const ONCE: &str = "[model.retry]\nattempts = 1";

/// A proxy whose model `chat` these servers serve.
struct Chats {
    proxy: Running,
    servers: Vec<ModelServer>,
    client: Client<HttpConnector, Full<Bytes>>,
}

struct Reply {
    status: StatusCode,
    text: String,
}

impl Chats {
    async fn new(keys: &str, settings: impl IntoIterator<Item = Settings>) -> Self {
        let mut servers = Vec::new();
        for settings in settings {
            let options = Options { settings, parallelism: 64, ..Options::default() };
            servers.push(ModelServer::start(options).await.unwrap());
        }
        let addresses: Vec<_> =
            servers.iter().map(|server| format!("\"http://{}\"", server.http_address())).collect();
        let model = format!(
            "[[model]]\nname = \"chat\"\nprotocol = \"openai\"\ninstances = [{}]\n{keys}\n",
            addresses.join(", ")
        );
        let client = Client::builder(TokioExecutor::new()).build_http();
        let chats = Self { proxy: proxy(&model).await, servers, client };
        eventually(async || chats.status().await.instances.iter().all(|instance| instance.healthy))
            .await;
        chats
    }

    async fn status(&self) -> batchwise::engine::ModelStatus {
        self.proxy.models.get("chat").unwrap().status().await.unwrap()
    }

    async fn breaker(&self) -> &'static str {
        self.status().await.instances[0].breaker
    }

    /// The answer as far as its head.
    async fn begin(&self, body: &Value, headers: &[(&str, &str)]) -> http::Response<Incoming> {
        let uri = format!("http://{}/v1/chat/completions", self.proxy.http);
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.to_string().into())).unwrap();
        tokio::time::timeout(BOUND, self.client.request(request)).await.unwrap().unwrap()
    }

    async fn ask(&self, body: &Value, headers: &[(&str, &str)]) -> Reply {
        let (head, body) = self.begin(body, headers).await.into_parts();
        let body = tokio::time::timeout(BOUND, body.collect()).await.unwrap().unwrap().to_bytes();
        Reply { status: head.status, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// A stream of a few events; returns its status.
    async fn stream(&self) -> StatusCode {
        let reply = self.ask(&streamed("a b c"), &[]).await;
        assert!(reply.status != 200 || reply.text.ends_with("data: [DONE]\n\n"), "{}", reply.text);
        reply.status
    }
}

fn streamed(words: &str) -> Value {
    json!({"model": "chat", "stream": true, "messages": [{"role": "user", "content": words}]})
}

fn whole(words: &str) -> Value {
    json!({"model": "chat", "messages": [{"role": "user", "content": words}]})
}

/// The time-out of a model is for the beginning; a stream that goes on is not cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_last_longer_than_the_time_out() {
    let settings = Settings { token_interval: Duration::from_millis(60), ..Settings::default() };
    let chats = Chats::new("timeout = \"250ms\"", [settings]).await;
    let reply = chats.ask(&streamed("a b c d e f g"), &[]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text.ends_with("data: [DONE]\n\n"), "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_begins_is_given_up_at_the_deadline() {
    let chats = Chats::new("", [Settings { stall: Trigger::Always, ..Settings::default() }]).await;
    for (count, body) in [(1, streamed("a")), (2, whole("a"))] {
        let reply = chats.ask(&body, &[("x-request-timeout-ms", "50")]).await;
        assert_eq!(reply.status, 504, "{}", reply.text);
        chats.servers[0].wait_until(|seen| seen.cancelled == count, BOUND).await.unwrap();
    }
    eventually(async || chats.status().await.instances[0].in_flight == 0).await;
}

/// Nothing of it has reached the caller yet, so another server may answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_has_not_begun_goes_to_another_server() {
    let fails = Settings { fail: Trigger::Always, ..Settings::default() };
    let drops = Settings { drop_connection: Trigger::Always, ..Settings::default() };
    let chats = Chats::new("", [fails, drops, Settings::default()]).await;
    for round in 0..30 {
        assert_eq!(chats.stream().await, 200, "round {round}");
        assert_eq!(chats.ask(&whole("a b"), &[]).await.status, 200, "round {round}");
    }
    for broken in &chats.servers[..2] {
        assert!(broken.statistics().calls > 0, "it was not tried at all");
    }
}

fn failing(http: u16) -> impl Fn(&mut Settings) {
    move |settings: &mut Settings| {
        settings.fail = Trigger::Next(1);
        settings.fail_with = FaultStatus::new(tonic::Code::Internal, http, "no");
    }
}

/// What is wrong with a request, or too much for a server just now, neither opens a breaker nor makes
/// good what the server failed.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_chats_and_busy_servers_are_neutral() {
    let chats = Chats::new(ONCE, [Settings::default()]).await;
    let switches = chats.servers[0].switches();
    let answer = async |status| {
        switches.set(failing(status));
        assert_eq!(chats.stream().await, status);
    };
    for status in [400, 404, 422, 429, 503].repeat(4) {
        answer(status).await;
    }
    assert_eq!(chats.breaker().await, "closed");
    for status in [500, 400, 500, 429, 503, 404] {
        answer(status).await;
    }
    assert_eq!(chats.breaker().await, "closed");
    answer(500).await;
    assert_eq!(chats.breaker().await, "open", "the third failure without a success");
    answer(400).await;
    eventually(async || chats.status().await.instances[0].in_flight == 0).await;
    assert_eq!(chats.breaker().await, "half-open", "a wrong request is no sign of health");
    assert_eq!(chats.stream().await, 200);
    eventually(async || chats.breaker().await == "closed").await;
}

/// The first chat after an outage may last for minutes; the others do not wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_again_when_a_stream_begins() {
    let chats = Chats::new(ONCE, [Settings::default()]).await;
    let switches = chats.servers[0].switches();
    for _ in 0..3 {
        switches.set(failing(500));
        assert_eq!(chats.stream().await, 500);
    }
    assert_eq!(chats.breaker().await, "open");
    switches.set(|settings| settings.token_interval = 10 * BOUND);
    let mut endless = chats.begin(&streamed("a b c"), &[]).await.into_body();
    endless.frame().await.unwrap().unwrap();
    eventually(async || chats.breaker().await == "closed").await;
    switches.set(|settings| settings.token_interval = Duration::ZERO);
    assert_eq!(chats.stream().await, 200);
    assert_eq!(chats.servers[0].statistics().concurrency, 1, "the first one still goes on");
}

/// Callers that go before the answer begins, again and again, use up no places.
#[tokio::test(flavor = "multi_thread")]
async fn chats_that_are_left_give_back_their_places_and_connections() {
    let settings = Settings { stall: Trigger::Always, ..Settings::default() };
    let chats = Chats::new("max_concurrency = 4", [settings]).await;
    let server = &chats.servers[0];
    for _ in 0..15 {
        let riding = join_all((0..8).map(|_| chats.stream()));
        let mut riding = Box::pin(riding);
        tokio::select! {
            _ = &mut riding => panic!("nobody is answered"),
            seen = server.wait_until(|seen| seen.concurrency == 4, BOUND) => drop(seen.unwrap()),
        }
        drop(riding);
        eventually(async || {
            let status = chats.status().await;
            status.instances[0].in_flight == 0 && status.waiting_rows == 0
        })
        .await;
        server.wait_until(|seen| seen.concurrency == 0, BOUND).await.unwrap();
    }
    server.reset_statistics();
    server.switches().set(|settings| {
        settings.stall = Trigger::Never;
        settings.token_interval = Duration::from_millis(20);
    });
    let answered = join_all((0..8).map(|_| chats.stream())).await;
    assert_eq!(answered, [200; 8]);
    let seen = server.wait_until(|seen| seen.open_connections <= 8, BOUND).await.unwrap();
    assert_eq!(seen.max_concurrency, 4, "as many at once as it may have, and again all of them");
    eventually(async || chats.proxy.buffered_bytes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_chats_run_at_once_as_max_concurrency_says_and_no_fewer() {
    let settings = Settings { token_interval: Duration::from_millis(5), ..Settings::default() };
    let chats = Chats::new("max_concurrency = 3", [settings]).await;
    let answered = join_all((0..30).map(|_| chats.stream())).await;
    assert_eq!(answered, [200; 30]);
    assert_eq!(chats.servers[0].statistics().max_concurrency, 3);
}

/// A name that is missing or empty does not stand for whichever model there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_chat_without_the_name_of_its_model_is_refused() {
    let chats = Chats::new("", [Settings::default()]).await;
    let messages = json!([{"role": "user", "content": "a"}]);
    for (body, status) in [
        (json!({"model": "", "messages": messages}), 400),
        (json!({"messages": messages}), 400),
        (json!({"model": null, "messages": messages}), 400),
        (json!({"model": "chat ", "messages": messages}), 404),
    ] {
        let reply = chats.ask(&body, &[]).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text);
        assert!(reply.text.contains("\"param\":\"model\""), "{}", reply.text);
    }
    assert_eq!(chats.servers[0].statistics().calls, 0);
}
