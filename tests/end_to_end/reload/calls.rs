//! What becomes of calls when the configuration changes.

use std::sync::Arc;
use std::time::Duration;

use batchwise::engine::Drained;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::{Configured, Load, ask_model, model, server, taking};
use crate::model_server::{Settings, reply_to};
use crate::stage::{BOUND, client, eventually};

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

/// Sends so many calls and waits until the last of them is accepted.
async fn accepted(
    site: &Configured,
    name: &'static str,
    calls: usize,
) -> JoinSet<Result<(), Status>> {
    let connection = client(&site.proxy).await;
    let model = site.proxy.models.get(name).unwrap();
    let answered = || usize::try_from(model.statistics().success.count).unwrap();
    let (before, mut accepted) = (answered(), JoinSet::new());
    for number in 0..calls {
        let mut client = connection.clone();
        accepted.spawn(async move { ask_model(&mut client, name, 3 * number).await });
    }
    eventually(async || {
        // First, so that nothing is counted twice.
        let answered = answered() - before;
        let status = model.status().await.unwrap();
        let running: u32 = status.instances.iter().map(|instance| instance.in_flight).sum();
        let waiting: u32 = status.waiting.iter().sum();
        answered + (waiting + running) as usize >= calls
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
