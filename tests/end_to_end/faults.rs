//! When instances fail, callers should not notice, or hear why.

use std::time::Duration;

use tonic::Code;

use crate::model_server::{FaultStatus, ServiceTime, Settings, Trigger};
use crate::stage::{Stage, ask, ask_many, eventually, request};

fn slow(max_batch_size: u32) -> Settings {
    let service = ServiceTime::linear(Duration::from_millis(5), Duration::from_micros(100));
    Settings { service, max_batch_size, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisonous_call_fails_alone() {
    let stage = Stage::new("", [Settings { poison: true, ..slow(32) }]).await;
    let client = stage.client().await;
    let mut poisonous = client.clone();
    let (poisoned, healthy) =
        tokio::join!(ask(&mut poisonous, request(1, 1, 666.0)), ask_many(&client, 31));
    let status = poisoned.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("the batch contains poison"), "{}", status.message());
    assert_eq!(healthy, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_under_load_costs_nobody_an_answer() {
    let mut stage = Stage::new("", [slow(8), slow(8)]).await;
    let client = stage.client().await;
    let load = {
        let client = client.clone();
        tokio::spawn(async move { ask_many(&client, 400).await })
    };
    let dies = stage.servers.remove(0);
    dies.wait_until(|seen| seen.executions >= 3, Duration::from_secs(10)).await.unwrap();
    dies.shutdown().await;
    assert_eq!(load.await.unwrap(), []);
    assert_eq!(ask_many(&client, 20).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_connections_are_retried() {
    let drops = Settings { drop_connection: Trigger::Next(1), ..slow(8) };
    let stage = Stage::new("", [drops, slow(8)]).await;
    assert_eq!(ask_many(&stage.client().await, 50).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn back_pressure_is_waited_out_and_opens_no_breaker() {
    let busy = Settings {
        overload: Trigger::Next(3),
        overload_with: FaultStatus::new(Code::ResourceExhausted, 429, "busy"),
        ..slow(8)
    };
    let stage = Stage::new("", [busy]).await;
    assert_eq!(ask_many(&stage.client().await, 20).await, []);
    let model = stage.proxy.models.get("linear").unwrap();
    assert_eq!(model.status().await.unwrap().instances[0].breaker, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_without_the_rows_are_found_out_and_said() {
    let odd = Settings { wrong_rows: Trigger::Next(1), ..slow(8) };
    let stage = Stage::new("", [odd]).await;
    let client = stage.client().await;
    let mut first = client.clone();
    let blocker = tokio::spawn(async move { first.model_infer(request(2, 1, 0.0)).await });
    blocker.await.unwrap().unwrap();
    assert_eq!(ask_many(&client, 10).await, []);
    let model = stage.proxy.models.get("linear").unwrap();
    assert!(!model.status().await.unwrap().batchable);
    let seen = stage.servers[0].statistics();
    assert_eq!(seen.batch_sizes.get(&1), Some(&10), "{:?}", seen.batch_sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_server_is_left_alone_and_taken_back() {
    let failing = Settings { fail: Trigger::Always, ..slow(1) };
    let stage = Stage::new("", [failing]).await;
    let mut client = stage.client().await;
    let model = stage.proxy.models.get("linear").unwrap();
    for _ in 0..3 {
        let status = ask(&mut client, request(1, 1, 0.0)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("injected failure"), "{}", status.message());
    }
    assert_eq!(model.status().await.unwrap().instances[0].breaker, "open");
    stage.servers[0].switches().set(|settings| settings.fail = Trigger::Never);
    eventually(async || ask(&mut client, request(1, 1, 0.0)).await.is_ok()).await;
    assert_eq!(model.status().await.unwrap().instances[0].breaker, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unready_server_gets_nothing() {
    let unready = Settings { ready: false, ..slow(8) };
    let stage = Stage::new("", [unready, slow(8)]).await;
    assert_eq!(ask_many(&stage.client().await, 30).await, []);
    assert_eq!(stage.servers[0].statistics().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_cancels_its_batch() {
    let stage = Stage::new("", [Settings { stall: Trigger::Next(1), ..slow(8) }]).await;
    let client = stage.client().await;
    let mut goes = client.clone();
    let going = tokio::spawn(async move { ask(&mut goes, request(1, 1, 0.0)).await });
    let server = &stage.servers[0];
    server.wait_until(|seen| seen.calls == 1, Duration::from_secs(10)).await.unwrap();
    going.abort();
    server.wait_until(|seen| seen.cancelled == 1, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ask_many(&client, 5).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_a_server_is_an_error_and_not_a_crash() {
    let stage = Stage::new("", [Settings { garbage: Trigger::Next(1), ..slow(8) }]).await;
    let mut client = stage.client().await;
    let status = ask(&mut client, request(1, 1, 0.0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    ask(&mut client, request(1, 1, 0.0)).await.unwrap();
}
