//! Text that is relayed: what is added to streams, what is taken out, and how they end.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::everything::{Everything, Reply};
use crate::model_server::{FaultStatus, Settings, Trigger};
use crate::stage::{BOUND, eventually};

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "a b c"}]});
    body.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    body
}

async fn text(everything: &Everything, more: &Value) -> String {
    let reply = everything.post("/v1/chat/completions", &chat(more)).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    String::from_utf8(reply.body.to_vec()).unwrap()
}

/// What the model server itself answers.
async fn direct(everything: &Everything, more: &Value) -> Bytes {
    let uri = format!("http://{}/v1/chat/completions", everything.server.http_address());
    let mut request = everything.request(Method::POST, "/", chat(more).to_string().into());
    *request.uri_mut() = uri.parse().unwrap();
    everything.send(request).await.body
}

async fn tokens(everything: &Everything, direction: &str) -> u64 {
    let page = String::from_utf8(everything.admin("/metrics").await.body.to_vec()).unwrap();
    let series = format!("batchwise_tokens_total{{model=\"chat\",direction=\"{direction}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_streams_are_counted_and_callers_see_what_they_asked_for() {
    let everything = Everything::with("stream_usage = true", Settings::default()).await;
    let wants = json!({"stream": true, "stream_options": {"include_usage": true}});
    for (index, more) in [
        json!({"stream": true}),
        json!({"stream": true, "stream_options": null}),
        json!({"stream": true, "stream_options": {"include_usage": false}}),
        wants.clone(),
        json!({}),
    ]
    .iter()
    .enumerate()
    {
        let expected = direct(&everything, more).await;
        assert_eq!(text(&everything, more).await, String::from_utf8_lossy(&expected), "{more}");
        let calls = index as u64 + 1;
        // "a b c" is three tokens, "You said: a b c" five.
        eventually(async || {
            (tokens(&everything, "prompt").await, tokens(&everything, "completion").await)
                == (3 * calls, 5 * calls)
        })
        .await;
    }
    let seen = everything.server.statistics().seen;
    assert_eq!(seen[1].body, {
        let plain = chat(&json!({"stream": true})).to_string();
        plain.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1)
    });
    assert_eq!(seen[7].body, chat(&wants).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_to_the_instance_as_it_came_unless_told_otherwise() {
    let everything = Everything::new(Settings::default()).await;
    let more = json!({"stream": true, "service_tier": "flex"});
    text(&everything, &more).await;
    let seen = everything.server.statistics().seen.pop_back().unwrap();
    assert_eq!(seen.body, chat(&more).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_stream_options_is_not_asked_again() {
    let settings = Settings { refuse_stream_options: true, ..Settings::default() };
    let everything = Everything::with("stream_usage = true", settings).await;
    let calls = || everything.server.statistics().calls;
    let more = json!({"stream": true});
    assert!(text(&everything, &more).await.ends_with("data: [DONE]\n\n"));
    assert_eq!(calls(), 2, "it was asked with and without");
    assert!(text(&everything, &more).await.ends_with("data: [DONE]\n\n"));
    assert_eq!(calls(), 3);
    let wants = json!({"stream": true, "stream_options": {"include_usage": true}});
    let refused = everything.post("/v1/chat/completions", &chat(&wants)).await;
    assert_eq!((refused.status.as_u16(), calls()), (400, 4), "who asks for it hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_keep_a_slow_stream_open() {
    let settings = Settings { token_interval: Duration::from_millis(300), ..Settings::default() };
    let everything = Everything::with("stream_heartbeat = \"50ms\"", settings).await;
    let more = json!({"stream": true});
    let text = text(&everything, &more).await;
    let comment = ": keep-alive\n\n";
    assert!(text.matches(comment).count() > 4, "{text}");
    let expected = direct(&everything, &more).await;
    assert_eq!(text.replace(comment, ""), String::from_utf8_lossy(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_given_up() {
    let settings = Settings { token_interval: Duration::from_secs(3600), ..Settings::default() };
    let everything = Everything::with("stream_idle_timeout = \"100ms\"", settings).await;
    let text = text(&everything, &json!({"stream": true})).await;
    let (_, event) = text.trim_end().rsplit_once("data: ").unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["error"]["code"], "upstream_error");
    assert!(event["error"]["message"].as_str().unwrap().contains("nothing came for 100 ms"));
    assert!(!text.contains("[DONE]"));
    everything.server.wait_until(|seen| seen.cancelled == 1, BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_tier_is_a_priority_unless_a_header_names_one() {
    let everything = Everything::new(Settings::default()).await;
    for (tier, header, priority) in [
        (json!("flex"), None, 3),
        (json!("priority"), None, 1),
        (json!("default"), None, 2),
        (json!("auto"), None, 2),
        (json!("flex"), Some("1"), 1),
        (json!("flex"), Some("0"), 2),
    ] {
        let of = async || {
            let page = everything.admin("/metrics").await.body;
            let page = String::from_utf8(page.to_vec()).unwrap();
            let series = format!("model=\"chat\",protocol=\"openai\",priority=\"{priority}\"");
            let line = page.lines().find(|line| line.contains(&series)).map(str::to_owned);
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let before = of().await;
        let body = chat(&json!({"service_tier": tier})).to_string();
        let mut request =
            everything.request(Method::POST, "/v1/chat/completions", body.clone().into());
        if let Some(header) = header {
            request.headers_mut().insert("x-request-priority", header.parse().unwrap());
        }
        assert_eq!(everything.send(request).await.status, 200);
        assert_eq!(of().await, before + 1, "{tier} {header:?}");
        assert_eq!(everything.server.statistics().seen.pop_back().unwrap().body, body);
    }
}

fn is_openai_error(reply: &Reply) -> bool {
    let body = reply.json();
    let error = body["error"].as_object().unwrap();
    let text_or_null = |key| error.get(key).is_some_and(|it| it.is_string() || it.is_null());
    error["message"].is_string()
        && error["type"].is_string()
        && text_or_null("param")
        && text_or_null("code")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reply_has_its_headers_and_every_error_its_four_keys() {
    let everything = Everything::new(Settings::default()).await;
    let send = |method: Method, path: &'static str, body: &'static str| {
        everything.send(everything.request(method, path, body.into()))
    };
    let chat_path = "/v1/chat/completions";
    for (method, path, body, status) in [
        (Method::GET, "/v1/models", "", 200),
        (Method::POST, chat_path, r#"{"model":"chat","messages":[]}"#, 200),
        (Method::POST, chat_path, r#"{"model":"chat","stream":true,"messages":[]}"#, 200),
        (Method::POST, chat_path, "{", 400),
        (Method::POST, chat_path, r#"{"model":"none"}"#, 404),
        (Method::POST, chat_path, r#"{"model":"chat","messages":5}"#, 400),
        (Method::GET, chat_path, "", 405),
        (Method::DELETE, "/v1/embeddings", "", 405),
        (Method::PUT, "/v1/models", "", 405),
        (Method::GET, "/v1", "", 404),
        (Method::POST, "/v1/responses", "{}", 404),
        (Method::GET, "/v1/models/none", "", 404),
    ] {
        let reply = send(method.clone(), path, body).await;
        assert_eq!(reply.status, status, "{method} {path}: {:?}", reply.body);
        let processing = reply.headers["openai-processing-ms"].to_str().unwrap();
        assert!(processing.parse::<u64>().is_ok(), "{processing}");
        assert!(reply.headers.contains_key("x-request-id"));
        assert!(status == 200 || is_openai_error(&reply), "{method} {path}: {:?}", reply.body);
        assert_eq!(reply.headers.contains_key("x-should-retry"), status != 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_says_itself_when_to_come_back() {
    let everything = Everything::new(Settings::default()).await;
    for status in [429, 503] {
        everything.server.switches().set(|settings| {
            settings.overload = Trigger::Next(1);
            settings.overload_with = FaultStatus {
                retry_after: Some(7),
                ..FaultStatus::new(tonic::Code::ResourceExhausted, status, "later")
            };
        });
        let reply = everything.post("/v1/chat/completions", &chat(&json!({}))).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.json()["error"]["message"], "later");
        assert_eq!(reply.headers["retry-after"], "7");
        assert_eq!(reply.headers["retry-after-ms"], "7000");
        assert!(!reply.headers.contains_key("x-should-retry"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_one_by_one_though_each_is_looked_at() {
    let settings = Settings { token_interval: Duration::from_millis(50), ..Settings::default() };
    let everything = Everything::with("stream_usage = true", settings).await;
    let body = chat(&json!({"stream": true})).to_string();
    let request = everything.request(Method::POST, "/v1/chat/completions", body.into());
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut stream = client.request(request).await.unwrap().into_body();
    let first = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"data: ") && first.ends_with(b"\n\n"), "{first:?}");
    assert_eq!(everything.server.statistics().concurrency, 1, "the server is still at it");
    let rest = stream.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
}
