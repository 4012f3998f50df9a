//! What time costs: nothing where there is nothing to do, and not a moment more than a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batchwise::call::{FaultKind, Terms};
use tokio::time::Instant;

use crate::script::{Act, Scripted, call, idle, models, spawn, spawn_on, terms};

/// An hour of nothing: a loop that polled a thousand times a second would be woken millions of times.
#[test]
fn a_model_at_rest_is_woken_by_its_probes_alone() {
    let wakes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&wakes);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    runtime.block_on(async {
        let (models, model) = models("", &[Scripted::new([]), Scripted::new([])]);
        for value in 0..200 {
            assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
        }
        idle(&models).await;
        let before = wakes.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let woken = wakes.load(Ordering::Relaxed) - before;
        // Two instances, a probe every two seconds.
        assert!(woken < 3 * 3600, "woken {woken} times");
        assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    });
}

/// Nobody else calls: there is nothing to wait for.
#[tokio::test(start_paused = true)]
async fn a_lone_call_is_never_held_for_company() {
    let (_models, model) = models("", &[Scripted::new([])]);
    for value in 0..200 {
        let began = Instant::now();
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
        assert_eq!(began.elapsed(), Duration::from_millis(10), "call {value}");
        tokio::time::sleep(Duration::from_millis(7 * u64::try_from(value % 30).unwrap())).await;
    }
}

/// The deadline does not wait until the running batch is back, and what has passed it is never run.
#[tokio::test(start_paused = true)]
async fn a_call_behind_a_long_batch_is_answered_at_its_deadline_and_never_sent() {
    let instance = Scripted::new([Act::Serve(90_000)]);
    let (_models, model) = models("timeout = \"5m\"", &[Arc::clone(&instance)]);
    let running = spawn(&model, &[1]);
    instance.arrival().await;
    let began = Instant::now();
    let waits = [100, 200, 10_000].map(|millis| {
        let deadline = Some(began + Duration::from_millis(millis));
        (millis, spawn_on(&model, &[2], Terms { deadline, ..terms() }))
    });
    for (millis, call) in waits {
        assert_eq!(call.await.unwrap(), Err(FaultKind::Deadline));
        assert_eq!(began.elapsed(), Duration::from_millis(millis));
    }
    assert_eq!(running.await.unwrap(), Ok(vec![2]));
    assert_eq!(call(&model, &[3]).await, Ok(vec![6]));
    assert_eq!(instance.batches(), [1, 1]);
}
