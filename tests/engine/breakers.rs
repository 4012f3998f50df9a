//! What breakers, health and supervision make of what goes wrong, and of what does not.

use std::sync::Arc;
use std::time::Duration;

use batchwise::call::{Fault, FaultKind};
use batchwise::engine::Model;
use batchwise::instance::Failure;
use tokio::time::Instant;

use crate::script::{Act, Scripted, call, models, spawn};

const ONCE: &str = "[model.retry]\nattempts = 1";

fn broken() -> Act {
    Act::Fail(Failure::broken("out of order"))
}

fn refused() -> Act {
    Act::Fail(Failure::refused(Fault::invalid("inputs", "wrong shape")))
}

async fn breaker(model: &Model) -> &'static str {
    model.status().await.unwrap().instances[0].breaker
}

/// Wrong requests say nothing of their instance: they do not open its breaker, and neither do they make
/// good what it failed before.
#[tokio::test(start_paused = true)]
async fn wrong_requests_neither_open_a_breaker_nor_count_as_successes() {
    let wrong = std::iter::repeat_n(refused(), 50);
    let script = [broken(), broken()].into_iter().chain(wrong).chain([broken()]);
    let (_models, model) = models(ONCE, &[Scripted::new(script)]);
    for _ in 0..2 {
        assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    }
    for _ in 0..50 {
        assert_eq!(call(&model, &[1]).await, Err(FaultKind::InvalidRequest));
    }
    assert_eq!(breaker(&model).await, "closed");
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    assert_eq!(breaker(&model).await, "open", "it is the third failure without a success");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_as_a_probe_closes_no_breaker() {
    let script = [broken(), broken(), broken(), refused(), broken()];
    let instance = Scripted::new(script);
    let (_models, model) = models(ONCE, &[Arc::clone(&instance)]);
    for _ in 0..3 {
        assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    }
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::InvalidRequest));
    assert_eq!(breaker(&model).await, "half-open");
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    assert_eq!(breaker(&model).await, "open");
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    assert_eq!(breaker(&model).await, "closed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_goes_does_not_hold_its_breaker_half_open() {
    let instance = Scripted::new([broken(), broken(), broken(), Act::Stall]);
    let (_models, model) = models(ONCE, &[Arc::clone(&instance)]);
    for _ in 0..3 {
        assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
        instance.arrival().await;
    }
    let probe = spawn(&model, &[1]);
    instance.arrival().await;
    assert_eq!(breaker(&model).await, "half-open");
    probe.abort();
    let began = Instant::now();
    assert_eq!(call(&model, &[2]).await, Ok(vec![4]));
    assert_eq!(began.elapsed(), Duration::from_millis(10));
    assert_eq!(breaker(&model).await, "closed");
}

/// Probes pass all the while, as those of a server do whose accelerator is gone.
#[tokio::test(start_paused = true)]
async fn a_model_that_fails_every_call_is_not_ready_though_its_probes_pass() {
    let well = Instant::now() + Duration::from_secs(60);
    let instances = [0, 1].map(|_| Scripted::new([Act::FailUntil(well)]));
    let (models, model) = models("", &instances);
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    assert!(model.is_ready() && models.any_ready(), "one failure is not the end");
    let mut not_ready = 0;
    let mut refused = 0;
    while Instant::now() < well {
        if call(&model, &[1]).await == Err(FaultKind::NoInstance) {
            refused += 1;
            not_ready += usize::from(!model.is_ready() && !models.any_ready());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 1000, "{refused}");
    assert_eq!(not_ready, refused, "who is refused for want of an instance finds it not ready");
    assert!(model.status().await.unwrap().instances.iter().all(|instance| instance.healthy));
    while call(&model, &[1]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(model.is_ready() && models.any_ready());
}

/// A defect of whoever carries a batch costs that batch; the queue goes on, and so does the model.
#[tokio::test(start_paused = true)]
async fn a_batch_lost_to_a_defect_does_not_end_batching() {
    let instance = Scripted::new([Act::Serve(10), Act::Panic]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let lost = [2, 3].map(|value| spawn(&model, &[value]));
    assert_eq!(first.await.unwrap(), Ok(vec![2]));
    for call in lost {
        assert_eq!(call.await.unwrap(), Err(FaultKind::Internal));
    }
    for value in 0..20 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    let status = model.status().await.unwrap();
    assert_eq!((status.instances[0].in_flight, status.waiting_rows), (0, 0));
}
