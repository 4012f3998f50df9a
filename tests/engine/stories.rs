//! What callers see when things go wrong, and when they go right.

use std::sync::Arc;
use std::time::Duration;

use batchwise::call::{Fault, FaultKind, Terms};
use batchwise::engine::Drained;
use batchwise::instance::{BatchLimit, Failure};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::script::{Act, Outcome, Scripted, call, call_on, models, spawn, spawn_on, terms};

/// Lets every task go as far as it can without time passing.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn all(calls: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn what_waits_while_a_batch_runs_rides_together() {
    let instance = Scripted::new([]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let others = (2..8).map(|value| spawn(&model, &[value])).collect();
    assert_eq!(first.await.unwrap(), Ok(vec![2]));
    let expected: Vec<Outcome> = (2..8).map(|value| Ok(vec![value * 2])).collect();
    assert_eq!(all(others).await, expected);
    assert_eq!(instance.batches(), [1, 4, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_larger_than_a_batch_comes_back_whole_and_in_order() {
    let instances = [Scripted::new([Act::Serve(50)]), Scripted::new([])];
    let (_models, model) = models("", &instances);
    let asked: Vec<i64> = (0..19).collect();
    let expected: Vec<i64> = asked.iter().map(|value| value * 2).collect();
    assert_eq!(call(&model, &asked).await, Ok(expected));
    let mut sizes = [instances[0].batches(), instances[1].batches()].concat();
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 4, 4, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_retried_on_another_instance() {
    let reset = Act::Fail(Failure::lost("reset"));
    let instances = [Scripted::new([reset.clone()]), Scripted::new([reset])];
    let (_models, model) = models("", &[Arc::clone(&instances[0]), Scripted::new([])]);
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    let (_models, model) = models("[model.retry]\nattempts = 1", &[Arc::clone(&instances[1])]);
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
}

/// Nothing was attempted, so it costs no attempt.
#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_reached_is_waited_for() {
    let away = Act::Fail(Failure::connection("refused"));
    let instance = Scripted::new([away.clone(), away]);
    let (_models, model) = models("[model.retry]\nidempotent = false", &[instance]);
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn one_bad_call_never_hurts_its_batch_mates() {
    let instance = Scripted::new([]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let others = [10, 666, 30, 40].map(|value| spawn(&model, &[value])).into();
    first.await.unwrap().unwrap();
    let outcomes = all(others).await;
    assert_eq!(outcomes, [Ok(vec![20]), Err(FaultKind::Upstream), Ok(vec![60]), Ok(vec![80])]);
    assert_eq!(instance.batches(), [1, 4, 2, 2, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_hears_the_instances_own_words() {
    let refusal = Fault::invalid("inputs", "wrong shape");
    let instance = Scripted::new([Act::Fail(Failure::refused(refusal))]);
    let (_models, model) = models("", &[instance]);
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::InvalidRequest));
    let status = model.status().await.unwrap();
    assert_eq!(status.instances[0].breaker, "closed");
}

#[tokio::test(start_paused = true)]
async fn outputs_without_the_rows_are_found_out_and_calls_go_alone() {
    let instance = Scripted::new([Act::Serve(10), Act::OneRow]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let others = (2..5).map(|value| spawn(&model, &[value])).collect();
    first.await.unwrap().unwrap();
    let expected: Vec<Outcome> = (2..5).map(|value| Ok(vec![value * 2])).collect();
    assert_eq!(all(others).await, expected);
    assert_eq!(instance.batches(), [1, 3, 1, 1, 1]);
    assert!(!model.status().await.unwrap().batchable);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_frees_the_slot() {
    let instance = Scripted::new([Act::Stall]);
    let (_models, model) = models("timeout = \"100ms\"", &[Arc::clone(&instance)]);
    let started = Instant::now();
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Deadline));
    assert_eq!(started.elapsed().as_millis(), 100);
    assert_eq!(call(&model, &[2]).await, Ok(vec![4]));
}

#[tokio::test(start_paused = true)]
async fn an_impatient_call_does_not_end_its_batch() {
    let instance = Scripted::new([Act::Serve(10), Act::Serve(200)]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let impatient = spawn_on(&model, &[2], Terms { deadline, ..terms() });
    let patient = spawn(&model, &[3]);
    first.await.unwrap().unwrap();
    assert_eq!(impatient.await.unwrap(), Err(FaultKind::Deadline));
    assert_eq!(patient.await.unwrap(), Ok(vec![6]));
    assert_eq!(instance.batches(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_while_it_waits_is_never_sent() {
    let instance = Scripted::new([]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let goes = spawn(&model, &[2]);
    let stays = spawn(&model, &[3]);
    settle().await;
    goes.abort();
    settle().await;
    first.await.unwrap().unwrap();
    assert_eq!(stays.await.unwrap(), Ok(vec![6]));
    assert_eq!(instance.batches(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_nobody_waits_for_is_cancelled() {
    let instance = Scripted::new([Act::Stall]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let goes = spawn(&model, &[1]);
    instance.arrival().await;
    goes.abort();
    assert_eq!(call(&model, &[2]).await, Ok(vec![4]));
    assert_eq!(*instance.cancelled.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_call_overtakes_bulk() {
    let instance = Scripted::new([]);
    let (_models, model) = models("max_batch_size = 1", &[Arc::clone(&instance)]);
    let first = spawn(&model, &[1]);
    instance.arrival().await;
    let bulk: Vec<_> = (0..20)
        .map(|value| spawn_on(&model, &[value], Terms { priority: Some(3), ..terms() }))
        .collect();
    settle().await;
    let started = Instant::now();
    let urgent = call_on(&model, &[5], Terms { priority: Some(1), ..terms() }).await;
    assert_eq!(urgent, Ok(vec![10]));
    assert!(started.elapsed() <= Duration::from_millis(20), "{:?}", started.elapsed());
    first.await.unwrap().unwrap();
    assert!(all(bulk).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_or_sheds() {
    let instance = Scripted::new([Act::Stall]);
    let (_models, model) = models("max_queue_size = 2", &[Arc::clone(&instance)]);
    let _running = spawn(&model, &[0]);
    instance.arrival().await;
    let low = Terms { priority: Some(3), ..terms() };
    let waiting = [1, 2].map(|value| spawn_on(&model, &[value], low.clone()));
    settle().await;
    assert_eq!(call_on(&model, &[3], low).await, Err(FaultKind::QueueFull));
    let urgent = spawn_on(&model, &[4], Terms { priority: Some(1), ..terms() });
    let [stays, shed] = waiting;
    assert_eq!(shed.await.unwrap(), Err(FaultKind::Shed));
    settle().await;
    assert!(!stays.is_finished() && !urgent.is_finished());
}

#[tokio::test(start_paused = true)]
async fn back_pressure_is_waited_out() {
    let busy = Act::Fail(Failure::overload("busy", None));
    let instance = Scripted::new([busy.clone(), busy.clone(), busy]);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    assert_eq!(instance.batches(), [1, 1, 1, 1]);
    assert_eq!(model.status().await.unwrap().instances[0].breaker, "closed");
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_instance_calls_are_refused_at_once() {
    let instance = Scripted::new([]);
    *instance.up.lock().unwrap() = false;
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::NoInstance));
    *instance.up.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn calls_wait_while_an_instance_loads() {
    let instance = Scripted::new([]);
    *instance.loads.lock().unwrap() = true;
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let waiting = spawn(&model, &[1]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!waiting.is_finished() && !model.is_ready());
    *instance.loads.lock().unwrap() = false;
    assert_eq!(waiting.await.unwrap(), Ok(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn calls_do_not_wait_for_ever_while_an_instance_loads() {
    let instance = Scripted::new([]);
    *instance.loads.lock().unwrap() = true;
    let keys = "[model.health]\nloading_hold = \"7s\"";
    let (_models, model) = models(keys, &[Arc::clone(&instance)]);
    let began = Instant::now();
    let [early, late] = [spawn(&model, &[1]), spawn(&model, &[2])];
    assert_eq!(early.await.unwrap(), Err(FaultKind::NoInstance));
    assert_eq!(late.await.unwrap(), Err(FaultKind::NoInstance));
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(call(&model, &[3]).await, Err(FaultKind::NoInstance));
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_one_that_stops_to_load() {
    let instance = Scripted::new([]);
    *instance.loads.lock().unwrap() = true;
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    let waiting = spawn(&model, &[1]);
    settle().await;
    let began = Instant::now();
    *instance.up.lock().unwrap() = false;
    *instance.loads.lock().unwrap() = false;
    assert_eq!(waiting.await.unwrap(), Err(FaultKind::NoInstance));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_limit_is_learned() {
    let instance = Scripted::limited(BatchLimit::Unknown, []);
    let (_models, model) = models("", &[Arc::clone(&instance)]);
    for _ in 0..4 {
        let calls = (0..64).map(|value| spawn(&model, &[value])).collect();
        assert!(all(calls).await.iter().all(Result::is_ok));
    }
    let largest = instance.batches().into_iter().max();
    assert!(largest > Some(16), "grown to {largest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_what_was_accepted_and_refuses_the_rest() {
    let instance = Scripted::new([]);
    let (models, model) = models("", &[Arc::clone(&instance)]);
    let accepted: Vec<_> = (0..10).map(|value| spawn(&model, &[value])).collect();
    settle().await;
    let drain = models.drain(Instant::now() + Duration::from_secs(5));
    let late = async {
        settle().await;
        call(&model, &[1]).await
    };
    let (drained, late) = tokio::join!(drain, late);
    assert_eq!((drained, late), (Drained::Clean, Err(FaultKind::Draining)));
    assert!(all(accepted).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_says_how_many_were_cut() {
    let instance = Scripted::new([Act::Stall]);
    let (models, model) = models("", &[Arc::clone(&instance)]);
    let _running = spawn(&model, &[1]);
    instance.arrival().await;
    let _waiting = spawn(&model, &[2]);
    settle().await;
    let drained = models.drain(Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(drained, Drained::Cut(2));
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_does_not_exist_is_refused() {
    let (_models, model) = models("", &[Scripted::new([])]);
    let outcome = call_on(&model, &[1], Terms { priority: Some(4), ..terms() }).await;
    assert_eq!(outcome, Err(FaultKind::InvalidRequest));
}

/// One batch in the middle of its life never comes back: its call is served elsewhere long before
/// any time-out, and the instance gets nothing more until it is given up and probed.
#[tokio::test(start_paused = true)]
async fn a_batch_that_hangs_costs_nobody_an_answer() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10), Act::Stall];
    let instances = [Scripted::new(script), Scripted::new([])];
    let (_models, model) = models("", &instances);
    let mut longest = Duration::ZERO;
    for value in 0..40 {
        let began = Instant::now();
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_millis(60), "{longest:?}");
    assert_eq!(instances[0].batches().len(), 4, "nothing goes to an instance that hangs");
    while *instances[0].cancelled.lock().unwrap() == 0 {
        tokio::time::advance(Duration::from_millis(100)).await;
        settle().await;
    }
    for value in 0..100 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    assert!(instances[0].batches().len() > 10, "it is back in service");
}

/// The answer of a batch that was called back is nobody's; the instance is trusted again at once.
#[tokio::test(start_paused = true)]
async fn an_instance_that_answers_late_is_back_in_service() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10), Act::Serve(500)];
    let instances = [Scripted::new(script), Scripted::new([])];
    let (_models, model) = models("", &instances);
    for value in 0..200 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    assert_eq!(*instances[0].cancelled.lock().unwrap(), 0);
    assert!(instances[0].batches().len() > 20, "{:?}", instances[0].batches().len());
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_sent_twice_waits_for_its_instance() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10), Act::Serve(500)];
    let instances = [Scripted::new(script), Scripted::new([])];
    let (_models, model) = models("[model.retry]\nidempotent = false", &instances);
    let mut longest = Duration::ZERO;
    for value in 0..20 {
        let began = Instant::now();
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
        longest = longest.max(began.elapsed());
    }
    assert_eq!(longest, Duration::from_millis(500));
}

/// All instances fail for a minute: few batches reach them meanwhile, and the first to be well again is
/// found at once, not after a quarter of the outage.
#[tokio::test(start_paused = true)]
async fn when_all_were_out_the_first_to_be_back_is_found_at_once() {
    let well = Instant::now() + Duration::from_secs(60);
    let instances = [0, 1, 2].map(|_| Scripted::new([Act::FailUntil(well)]));
    let (_models, model) = models("", &instances);
    let mut calls = 0;
    while call(&model, &[1]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
        calls += 1;
    }
    let late = well.elapsed();
    assert!(late < Duration::from_millis(300), "{late:?}");
    let batches: usize = instances.iter().map(|instance| instance.batches().len()).sum();
    assert!(batches * 10 < calls, "{batches} batches for {calls} calls");
}

/// An operator who knows that an instance is well again need not wait for its breaker.
#[tokio::test(start_paused = true)]
async fn an_operator_closes_a_breaker() {
    let lost = Act::Fail(Failure::lost("reset"));
    let instance = Scripted::new([lost]);
    let (_models, model) = models("[model.retry]\nattempts = 1", &[instance]);
    assert_eq!(call(&model, &[1]).await, Err(FaultKind::Upstream));
    let breaker = async || model.status().await.unwrap().instances[0].breaker;
    assert_eq!(breaker().await, "open");
    let name = model.plan().instances[0].name.clone();
    assert!(model.set_drained(&name, false).await);
    assert_eq!(breaker().await, "closed");
    let began = Instant::now();
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    assert_eq!(began.elapsed(), Duration::from_millis(10));
}
