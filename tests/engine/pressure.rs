//! Instances that ask for a pause, and bounds in bytes.

use std::sync::Arc;
use std::time::Duration;

use batchwise::call::FaultKind;
use batchwise::instance::{BatchLimit, Failure};
use tokio::time::Instant;

use crate::script::{Act, Scripted, call, models, spawn};

fn busy(pause: u64) -> Failure {
    Failure::overload("busy", Some(Duration::from_millis(pause)))
}

/// Another instance has the calls meanwhile; the one that asked for a pause gets it.
#[tokio::test(start_paused = true)]
async fn an_instance_that_asks_for_a_pause_gets_it() {
    let instances = [Scripted::new([Act::Fail(busy(1500))]), Scripted::new([])];
    let (_models, model) = models("", &instances);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1480) {
        assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    }
    assert_eq!(instances[0].batches().len(), 1);
    while instances[0].batches().len() == 1 {
        assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
        assert!(began.elapsed() < Duration::from_secs(5), "it never gets work again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_instance_that_asks_for_a_pause_is_waited_for() {
    let (_models, model) = models("", &[Scripted::new([Act::Fail(busy(1500))])]);
    let began = Instant::now();
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    assert_eq!(began.elapsed(), Duration::from_millis(1510));
}

/// Two batches are on their way; the one that comes back later asks for less.
#[tokio::test(start_paused = true)]
async fn a_short_pause_does_not_end_a_longer_one() {
    let instance = Scripted::new([Act::Fail(busy(1500)), Act::FailAfter(50, busy(30))]);
    let (_models, model) = models("max_concurrency = 2\nmax_batch_size = 1", &[instance]);
    let began = Instant::now();
    let calls = [1, 2].map(|value| spawn(&model, &[value]));
    for (call, doubled) in calls.into_iter().zip([2, 4]) {
        assert_eq!(call.await.unwrap(), Ok(vec![doubled]));
        assert_eq!(began.elapsed(), Duration::from_millis(1510));
    }
}

/// And one that asks for more prolongs it.
#[tokio::test(start_paused = true)]
async fn a_second_refusal_prolongs_the_pause() {
    let instance = Scripted::new([Act::Fail(busy(500)), Act::FailAfter(300, busy(1500))]);
    let (_models, model) = models("max_concurrency = 2\nmax_batch_size = 1", &[instance]);
    let began = Instant::now();
    let calls = [1, 2].map(|value| spawn(&model, &[value]));
    for (call, doubled) in calls.into_iter().zip([2, 4]) {
        assert_eq!(call.await.unwrap(), Ok(vec![doubled]));
        assert_eq!(began.elapsed(), Duration::from_millis(1810));
    }
}

/// Each row has eight bytes.
#[tokio::test(start_paused = true)]
async fn batches_are_bounded_in_bytes() {
    let instance = Scripted::limited(BatchLimit::Rows(64), []);
    let (_models, model) = models("max_batch_bytes = \"24B\"", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[0]);
    instance.arrival().await;
    let calls: Vec<_> = (1..10).map(|value| spawn(&model, &[value])).collect();
    assert_eq!(first.await.unwrap(), Ok(vec![0]));
    for (call, value) in calls.into_iter().zip(1..) {
        assert_eq!(call.await.unwrap(), Ok(vec![2 * value]));
    }
    assert_eq!(instance.batches(), [1, 3, 3, 3]);
}

/// A row that is larger than a batch may be goes by itself; whoever stands behind it is served, too.
#[tokio::test(start_paused = true)]
async fn an_item_beyond_the_budget_goes_alone_and_blocks_nobody() {
    let instance = Scripted::limited(BatchLimit::Rows(64), []);
    let (_models, model) = models("max_batch_bytes = \"7B\"", &[Arc::clone(&instance)]);
    let calls: Vec<_> = (0..5).map(|value| spawn(&model, &[value])).collect();
    for (call, value) in calls.into_iter().zip(0..) {
        assert_eq!(call.await.unwrap(), Ok(vec![2 * value]));
    }
    assert_eq!(instance.batches(), [1; 5]);
}

/// A call that no longer fits into a batch stays at the head of the queue: smaller ones that came later
/// do not go before it time and again.
#[tokio::test(start_paused = true)]
async fn who_does_not_fit_any_more_is_first_in_the_next_batch() {
    let instance = Scripted::new([]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[0]);
    instance.arrival().await;
    let began = Instant::now();
    let leads = spawn(&model, &[1, 2]);
    let large = spawn(&model, &[3, 4, 5]);
    let small: Vec<_> = (6..16).map(|value| spawn(&model, &[value])).collect();
    assert_eq!(first.await.unwrap(), Ok(vec![0]));
    assert_eq!(leads.await.unwrap(), Ok(vec![2, 4]));
    assert_eq!(large.await.unwrap(), Ok(vec![6, 8, 10]));
    assert!(began.elapsed() <= Duration::from_millis(30), "{:?}", began.elapsed());
    for call in small {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_bytes() {
    let instance = Scripted::new([Act::Stall]);
    let (_models, model) = models("max_queue_bytes = \"20B\"", &[Arc::clone(&instance)]);
    let _running = spawn(&model, &[0]);
    instance.arrival().await;
    let _waiting = [1, 2].map(|value| spawn(&model, &[value]));
    while model.status().await.unwrap().waiting_rows < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(call(&model, &[3]).await, Err(FaultKind::QueueFull));
    let status = model.status().await.unwrap();
    assert_eq!((status.waiting_rows, status.waiting_bytes), (2, 16));
}
