//! What an operator sees: metrics, health, reflection, the drain.

use std::sync::Arc;
use std::time::Duration;

use batchwise::engine::Drained;
use batchwise::wire::pb;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::model_server::{ServiceTime, Settings};
use crate::stage::{Stage, ask, ask_many, eventually, request};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_and_batches() {
    let stage = Stage::plain().await;
    let mut client = stage.client().await;
    assert_eq!(ask_many(&client, 10).await, []);
    let mut bad = request(1, 1, 0.0);
    bad.inputs[0].shape = vec![2, 2];
    client.model_infer(bad).await.unwrap_err();
    let page = stage.proxy.metrics();
    let ok = "batchwise_requests_total{model=\"linear\",protocol=\"kserve-grpc\",priority=\"2\",outcome=\"ok\"} 10";
    assert!(page.contains(ok), "{page}");
    for metric in [
        "batchwise_batch_size_count",
        "batchwise_queue_duration_seconds_count",
        "batchwise_build_info",
    ] {
        assert!(page.contains(metric), "{metric} is missing: {page}");
    }
    assert!(!page.contains("nope"));
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_rows_and_batches() {
    let stage = Stage::plain().await;
    let mut client = stage.client().await;
    for _ in 0..3 {
        ask(&mut client, request(2, 2, 0.0)).await.unwrap();
    }
    let asked = pb::ModelStatisticsRequest { name: "linear".to_owned(), ..Default::default() };
    let statistics =
        client.model_statistics(asked).await.unwrap().into_inner().model_stats.remove(0);
    assert_eq!((statistics.inference_count, statistics.execution_count), (6, 3));
    assert_eq!(statistics.inference_stats.unwrap().success.unwrap().count, 3);
    assert_eq!(statistics.batch_stats[0].batch_size, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_instances() {
    let keys = "[model.health]\ninterval = \"50ms\"\nloading_hold = \"0s\"";
    let stage = Stage::new(keys, [Settings::default()]).await;
    let mut client = stage.client().await;
    ask(&mut client, request(1, 1, 0.0)).await.unwrap();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", stage.proxy.grpc));
    let mut health = HealthClient::new(channel.unwrap().connect().await.unwrap());
    for service in ["", "inference.GRPCInferenceService", "linear"] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(asked).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let asked = HealthCheckRequest { service: "nope".to_owned() };
    assert_eq!(health.check(asked).await.unwrap_err().code(), Code::NotFound);
    stage.servers[0].switches().set(|settings| settings.ready = false);
    eventually(async || {
        let asked = HealthCheckRequest { service: "linear".to_owned() };
        health.check(asked).await.unwrap().into_inner().status() == ServingStatus::NotServing
    })
    .await;
    // The lane hears of it a moment later.
    eventually(async || match ask(&mut client, request(1, 1, 0.0)).await {
        Ok(()) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable);
            status.metadata().get("x-batchwise-reason").is_some_and(|why| why == "no_instance")
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_everything_accepted() {
    let service = ServiceTime::linear(Duration::from_millis(50), Duration::ZERO);
    let stage =
        Stage::new("", [Settings { service, max_batch_size: 4, ..Settings::default() }]).await;
    let client = stage.client().await;
    let accepted = {
        let client = client.clone();
        tokio::spawn(async move { ask_many(&client, 20).await })
    };
    stage.servers[0].wait_until(|seen| seen.calls >= 2, Duration::from_secs(10)).await.unwrap();
    let drain = stage.proxy.drain(Duration::from_secs(20));
    assert_eq!(drain.await, Drained::Clean);
    assert_eq!(accepted.await.unwrap(), []);
    assert!(ask(&mut client.clone(), request(1, 1, 0.0)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sees_that_the_server_is_not_ready_is_not_let_in() {
    let stage = Stage::plain().await;
    let (address, models) = (stage.proxy.http, Arc::clone(&stage.proxy.models));
    let visit = async {
        while !models.is_draining() {
            tokio::task::yield_now().await;
        }
        // Without a pause in which the server could do what it has not done yet.
        std::net::TcpStream::connect(address).map_err(|error| error.kind())
    };
    let (drained, visited) = tokio::join!(stage.proxy.drain(Duration::from_secs(20)), visit);
    assert_eq!(drained, Drained::Clean);
    assert_eq!(visited.unwrap_err(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_at_rest_has_nothing_in_it() {
    let stage = Stage::plain().await;
    assert_eq!(ask_many(&stage.client().await, 50).await, []);
    eventually(async || {
        let status = stage.proxy.models.get("linear").unwrap().status().await.unwrap();
        status.waiting_rows == 0 && status.instances[0].in_flight == 0
    })
    .await;
}
