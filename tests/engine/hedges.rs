//! Batches that are slow to come back, and the second instance that is asked.

use std::sync::Arc;
use std::time::Duration;

use batchwise::call::FaultKind;
use batchwise::instance::Failure;
use tokio::time::Instant;

use crate::script::{Act, Scripted, call, idle, models, spawn};

const HEDGED: &str = "[model.hedge]\nenabled = true\ndelay = \"20ms\"";

fn cancelled(instance: &Arc<Scripted>) -> usize {
    *instance.cancelled.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_slow_batch_is_answered_by_a_second_instance() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10), Act::Stall];
    let instances = [Scripted::new(script), Scripted::new([])];
    let (_models, model) = models("[model.hedge]\nenabled = true", &instances);
    let mut longest = Duration::ZERO;
    for value in 0..40 {
        let began = Instant::now();
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_millis(25), "{longest:?}");
    assert_eq!(cancelled(&instances[0]), 1, "the one that lost is given up");
    assert!(instances[0].batches().len() > 10, "it is none the worse for it");
}

/// One that is gone and not slow is found out, though every one of its batches could be hedged.
#[tokio::test(start_paused = true)]
async fn an_instance_that_never_answers_is_not_hedged_for_ever() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10)];
    let stalls = std::iter::repeat_n(Act::Stall, 1000);
    let instances = [Scripted::new(script.into_iter().chain(stalls)), Scripted::new([])];
    let (_models, model) = models(HEDGED, &instances);
    for value in 0..200 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    let batches = instances[0].batches().len();
    assert!(batches < 3 + 10, "{batches} batches to an instance that does not answer");
}

#[tokio::test(start_paused = true)]
async fn whichever_fails_the_other_one_answers() {
    for (first, second) in [
        (Act::Serve(100), Act::Fail(Failure::broken("second"))),
        (Act::FailAfter(50, Failure::broken("first")), Act::Serve(100)),
    ] {
        let instances = [Scripted::new([first]), Scripted::new([second])];
        let (models, model) = models(HEDGED, &instances);
        assert_eq!(call(&model, &[4]).await, Ok(vec![8]));
        assert_eq!((instances[0].batches(), instances[1].batches()), (vec![1], vec![1]));
        idle(&models).await;
    }
}

/// Both failed by themselves: it was the call.
#[tokio::test(start_paused = true)]
async fn when_both_fail_the_caller_is_told() {
    let fail = |after| Act::FailAfter(after, Failure::broken("no"));
    let instances = [Scripted::new([fail(30), fail(1)]), Scripted::new([fail(5), fail(1)])];
    let (models, model) = models(HEDGED, &instances);
    assert_eq!(call(&model, &[4]).await, Err(FaultKind::Upstream));
    idle(&models).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_ends_both_requests() {
    let instances = [Scripted::new([Act::Stall]), Scripted::new([Act::Stall])];
    let (models, model) = models(HEDGED, &instances);
    let caller = spawn(&model, &[4]);
    instances[0].arrival().await;
    instances[1].arrival().await;
    caller.abort();
    while cancelled(&instances[0]) + cancelled(&instances[1]) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    idle(&models).await;
}

/// While somebody waits for a slot, none goes to a call that has one.
#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_while_somebody_waits() {
    let slow = || std::iter::repeat_n(Act::Serve(100), 20);
    let instances = [Scripted::new(slow()), Scripted::new(slow())];
    let keys = format!("max_concurrency = 1\nmax_batch_size = 1\n{HEDGED}");
    let (_models, model) = models(&keys, &instances);
    let calls: Vec<_> = (0..20).map(|value| spawn(&model, &[value])).collect();
    for (value, call) in (0..).zip(calls) {
        assert_eq!(call.await.unwrap(), Ok(vec![2 * value]));
    }
    let batches = instances[0].batches().len() + instances[1].batches().len();
    // The very last one may find an idle neighbour.
    assert!(batches <= 21, "{batches}");
}
