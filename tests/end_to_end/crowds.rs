//! Many callers, many servers, many models: everybody gets an answer, from the right one, and nobody idles.

use std::time::Duration;

use batchwise::wire::pb;
use http::Method;

use crate::everything::Everything;
use crate::model_server::{ModelServer, Options, ServiceTime, Settings};
use crate::stage::{Stage, ask, ask_many, client, eventually, proxy, request};

fn taking(millis: u64, max_batch_size: u32) -> Settings {
    let service = ServiceTime::linear(Duration::from_millis(millis), Duration::ZERO);
    Settings { service, max_batch_size, ..Settings::default() }
}

/// As many as pass the bounds of connections, streams and waiting room with their defaults.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_callers_at_once_are_all_answered() {
    let stage = Stage::new("", [taking(2, 64), taking(2, 64)]).await;
    assert_eq!(ask_many(&stage.client().await, 2048).await, []);
    let status = stage.proxy.models.get("linear").unwrap().status().await.unwrap();
    assert!(status.instances.iter().all(|instance| instance.breaker == "closed"));
    assert_eq!((status.waiting_rows, stage.proxy.buffered_bytes()), (0, 0));
}

/// A caller's one connection binds nobody to one server.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_reaches_every_server() {
    let stage = Stage::new("", [taking(5, 4), taking(5, 4), taking(5, 4)]).await;
    assert_eq!(ask_many(&stage.client().await, 300).await, []);
    let rows: Vec<u64> = stage.servers.iter().map(|server| server.statistics().rows).collect();
    assert!(rows.iter().all(|&rows| rows > 50), "{rows:?}");
}

/// Calls of different models never ride together, though the same server serves both.
#[tokio::test(flavor = "multi_thread")]
async fn models_share_no_batch() {
    let settings = Settings { journal: 1000, ..taking(5, 32) };
    let server = ModelServer::start(Options { settings, ..Options::default() }).await.unwrap();
    let model = |name: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\nprotocol = \"kserve-grpc\"\nupstream_name = \"linear\"\n\
             instances = [\"http://{}\"]\n",
            server.grpc_address()
        )
    };
    let proxy = proxy(&[model("small"), model("large")].concat()).await;
    let client = client(&proxy).await;
    let calls = (0..200).map(|index| {
        let mut client = client.clone();
        let (name, base) = if index % 2 == 0 { ("small", 0.0) } else { ("large", 10_000.0) };
        async move {
            let asked = request(1, 2, base + index as f32);
            ask(&mut client, pb::ModelInferRequest { model_name: name.to_owned(), ..asked }).await
        }
    });
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    let visits = server.journal();
    assert!(visits.iter().any(|visit| visit.values.len() > 4), "calls of one model ride together");
    for visit in visits {
        let large = visit.values.iter().filter(|&&value| value >= 10_000.0).count();
        assert!(large == 0 || large == visit.values.len(), "{:?}", visit.values);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_wait_for_servers_that_are_not_there() {
    let gone = ModelServer::start(Options::default()).await.unwrap();
    let address = gone.grpc_address();
    gone.shutdown().await;
    let server = ModelServer::start(Options::default()).await.unwrap();
    let proxy = proxy(&format!(
        "[[model]]\nname = \"linear\"\nprotocol = \"kserve-grpc\"\n\
         instances = [\"http://{address}\", \"http://{}\"]\n",
        server.grpc_address()
    ))
    .await;
    assert_eq!(ask_many(&client(&proxy).await, 50).await, []);
    assert_eq!(server.statistics().rows, 50);
}

/// A load balancer that asks whether the model is ready must hear that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_every_call_says_over_every_protocol_that_it_is_not_ready() {
    let everything = Everything::with("", Settings::default()).await;
    let fail = |settings: &mut Settings| settings.fail = crate::model_server::Trigger::Always;
    everything.server.switches().set(fail);
    let mut grpc = client(&everything.proxy).await;
    let mut not_ready = async |model: &'static str| {
        let path = format!("/v2/models/{model}/ready");
        let infer = format!("/v2/models/{model}/infer");
        let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
        let call = everything.request(Method::POST, &infer, body.into());
        let failed = everything.send(call).await;
        let refused = failed.headers["x-batchwise-reason"] == "no_instance";
        assert!(!refused || failed.headers.contains_key("retry-after"), "{:?}", failed.headers);
        let http = everything.get(&path).await.status;
        let asked = pb::ModelReadyRequest { name: model.to_owned(), version: String::new() };
        let ready = grpc.model_ready(asked).await.unwrap().into_inner().ready;
        // Not ready is 400 in this protocol.
        refused && http == 400 && !ready
    };
    for model in ["by-grpc", "linear"] {
        eventually(async || not_ready(model).await).await;
    }
    assert_eq!(everything.admin("/readyz").await.status, 200, "other models still are");
    everything
        .server
        .switches()
        .set(|settings| settings.fail = crate::model_server::Trigger::Never);
    eventually(async || everything.get("/v2/models/linear/ready").await.status == 200).await;
}

/// Sums over replicas are possible with histograms only.
#[tokio::test(flavor = "multi_thread")]
async fn durations_and_sizes_are_histograms() {
    let everything = Everything::new(taking(1, 8)).await;
    let mut grpc = client(&everything.proxy).await;
    let asked = pb::ModelInferRequest { model_name: "by-grpc".to_owned(), ..request(1, 1, 0.0) };
    ask(&mut grpc, asked).await.unwrap();
    let chat = serde_json::json!({"model": "chat", "stream": true,
                                  "messages": [{"role": "user", "content": "a b"}]});
    everything.post("/v1/chat/completions", &chat).await;
    let page = everything.proxy.metrics();
    for metric in [
        "batchwise_request_duration_seconds",
        "batchwise_queue_duration_seconds",
        "batchwise_batch_duration_seconds",
        "batchwise_batch_size",
        "batchwise_time_to_first_token_seconds",
        "batchwise_inter_token_seconds",
    ] {
        assert!(page.contains(&format!("# TYPE {metric} histogram\n")), "{metric}: {page}");
        let bucket = format!("{metric}_bucket{{");
        let ends = page.lines().filter(|line| line.starts_with(&bucket) && line.contains("le=\""));
        assert!(ends.count() > 5, "{metric}: {page}");
    }
}

/// An estimate of four bytes for each token: ten of them in a short text, a thousand in the long one.
#[tokio::test(flavor = "multi_thread")]
async fn batches_of_texts_are_bounded_in_tokens() {
    let everything = Everything::with("max_batch_tokens = 40", taking(10, 64)).await;
    let embed = async |text: String| {
        let body = serde_json::json!({"model": "embed", "input": text});
        everything.post("/v1/embeddings", &body).await.status
    };
    let short = futures_util::future::join_all((0..40).map(|index| embed(format!("{index:040}"))));
    let (short, long) = tokio::join!(short, embed("x".repeat(4000)));
    assert_eq!((short, long), (vec![http::StatusCode::OK; 40], http::StatusCode::OK));
    let seen = everything.server.statistics();
    assert_eq!((seen.rows, seen.largest_batch), (41, 4), "{:?}", seen.batch_sizes);
}
