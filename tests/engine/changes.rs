//! Other models while calls are under way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use batchwise::call::FaultKind;
use batchwise::engine::{Drained, Model, Models, ShuttingDown};
use batchwise::instance::Failure;
use batchwise::telemetry::Telemetry;
use tokio::time::Instant;

use crate::script::{Act, Scripted, call, models, setup};

async fn replace(models: &Models, keys: &str, instance: &Arc<Scripted>) -> Vec<String> {
    let setups = vec![setup(keys, &[Arc::clone(instance)])];
    models.change(&BTreeSet::new(), setups).await.unwrap()
}

async fn remove(models: &Models) {
    models.change(&BTreeSet::from(["m".to_owned()]), Vec::new()).await.unwrap();
}

/// Lets every task go on, without time passing, until so many hold an instance.
async fn held_by(holders: usize, instance: &Arc<Scripted>) {
    for _ in 0..1000 {
        if Arc::strong_count(instance) == holders {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{} hold the instance, not {holders}", Arc::strong_count(instance));
}

#[tokio::test(start_paused = true)]
async fn who_found_a_model_before_it_changed_or_went_is_answered_by_it() {
    let [first, second] = [Scripted::new([]), Scripted::new([])];
    let (models, found_first) = models("", &[Arc::clone(&first)]);
    assert_eq!(call(&found_first, &[1]).await, Ok(vec![2]));
    replace(&models, "", &second).await;
    let found_second = models.get("m").unwrap();
    assert!(!Arc::ptr_eq(&found_first, &found_second));
    assert_eq!(call(&found_first, &[2]).await, Ok(vec![4]));
    assert_eq!(call(&found_second, &[3]).await, Ok(vec![6]));
    remove(&models).await;
    assert!(models.get("m").is_none());
    assert_eq!(call(&found_first, &[4]).await, Ok(vec![8]));
    assert_eq!(call(&found_second, &[5]).await, Ok(vec![10]));
    assert_eq!((first.batches(), second.batches()), (vec![1, 1, 1], vec![1, 1]));
}

#[tokio::test(start_paused = true)]
async fn an_engine_ends_with_its_last_call() {
    let [first, second] = [Scripted::new([Act::Serve(50)]), Scripted::new([])];
    let (models, model) = models("", &[Arc::clone(&first)]);
    let held = Arc::clone(&model);
    let running = tokio::spawn(async move { call(&held, &[1]).await });
    drop(model);
    first.arrival().await;
    replace(&models, "", &second).await;
    assert!(Arc::strong_count(&first) > 1);
    assert_eq!(running.await.unwrap(), Ok(vec![2]));
    held_by(1, &first).await;
    remove(&models).await;
    held_by(1, &second).await;
}

/// Nobody waits any more for a batch that was called back, so it ends with its engine.
#[tokio::test(start_paused = true)]
async fn a_batch_that_ends_with_its_engine_is_counted_no_more() {
    let script = [Act::Serve(10), Act::Serve(10), Act::Serve(10), Act::Stall];
    let [first, second] = [Scripted::new(script), Scripted::new([])];
    let telemetry = Telemetry::new().unwrap();
    let instances = [Arc::clone(&first), Arc::clone(&second)];
    let models = Models::start(vec![setup("", &instances)], &telemetry);
    let inflight = || {
        let page = telemetry.render();
        let lines = page.lines().filter(|line| line.starts_with("batchwise_instance_inflight"));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<i32>().unwrap()).sum::<i32>()
    };
    for value in 0..40 {
        assert_eq!(call(&models.get("m").unwrap(), &[value]).await, Ok(vec![2 * value]));
    }
    assert_eq!(inflight(), 1);
    models.change(&BTreeSet::new(), vec![setup("", &instances)]).await.unwrap();
    while *first.cancelled.lock().unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(inflight(), 0);
}

/// Two instances that have served for a while, and the two that stand in their place from the change on.
async fn changed_after(
    calls: i64,
    script: impl IntoIterator<Item = Act>,
    keys: &str,
    after: &[Arc<Scripted>; 2],
) -> (Models, Arc<Model>) {
    let (models, model) = models("", &[Scripted::new(script), Scripted::new([])]);
    for value in 0..calls {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    models.change(&BTreeSet::new(), vec![setup(keys, after)]).await.unwrap();
    let model = models.get("m").unwrap();
    (models, model)
}

async fn batches_learned_from(model: &Model) -> u64 {
    model.status().await.unwrap().learned.curves.iter().map(|curve| curve.batches).sum()
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_freezes_as_its_model_changes_keeps_nobody_waiting() {
    let after = [Scripted::new([Act::Stall]), Scripted::new([])];
    let (_models, model) = changed_after(40, [], "max_queue_size = 99", &after).await;
    assert_eq!(batches_learned_from(&model).await, 40);
    let started = Instant::now();
    for value in 0..4 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    assert_eq!(after[0].batches().len(), 1);
    // What is learned of 10 ms is overdue after 35; nobody waits for a time-out.
    assert!(started.elapsed() <= Duration::from_millis(4 * 10 + 50), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_found_broken_gets_no_batch_because_its_model_changes() {
    let broken = std::iter::repeat_with(|| Act::Fail(Failure::broken("out of order")));
    let after = [Scripted::new([]), Scripted::new([])];
    let (_models, model) = changed_after(20, broken.take(9), "max_queue_size = 99", &after).await;
    assert_eq!(model.status().await.unwrap().instances[0].breaker, "open");
    for value in 0..4 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    assert_eq!((after[0].batches().len(), after[1].batches().len()), (0, 4));
    tokio::time::sleep(Duration::from_secs(10)).await;
    for value in 0..4 {
        assert_eq!(call(&model, &[value]).await, Ok(vec![2 * value]));
    }
    assert!(!after[0].batches().is_empty(), "it is probed when its time is up");
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_other_work_is_forgotten() {
    let after = [Scripted::new([]), Scripted::new([])];
    let (_models, model) = changed_after(40, [], "upstream_name = \"other\"", &after).await;
    assert_eq!(batches_learned_from(&model).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_replaced_once_the_new_one_is_up() {
    let [first, second] = [Scripted::new([]), Scripted::new([])];
    let (models, model) = models("", &[Arc::clone(&first)]);
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    *second.up.lock().unwrap() = false;
    let models = Arc::new(models);
    let changing = Arc::clone(&models);
    let change = {
        let second = Arc::clone(&second);
        tokio::spawn(async move { replace(&changing, "", &second).await })
    };
    // This test, the change, an engine and a watch.
    held_by(4, &second).await;
    assert_eq!(call(&models.get("m").unwrap(), &[2]).await, Ok(vec![4]));
    assert!(!change.is_finished() && second.batches().is_empty());
    *second.up.lock().unwrap() = true;
    assert_eq!(change.await.unwrap(), [""; 0]);
    assert_eq!(call(&models.get("m").unwrap(), &[3]).await, Ok(vec![6]));
    assert_eq!(second.batches(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_new_model_that_does_not_come_up_is_told() {
    let [first, second] = [Scripted::new([]), Scripted::new([])];
    let (models, model) = models("", &[Arc::clone(&first)]);
    assert_eq!(call(&model, &[1]).await, Ok(vec![2]));
    *second.up.lock().unwrap() = false;
    let started = Instant::now();
    let health = "[model.health]\ninterval = \"3s\"\ntimeout = \"500ms\"";
    assert_eq!(replace(&models, health, &second).await, ["m"]);
    assert_eq!(started.elapsed().as_millis(), 3500);
    let changed = models.get("m").unwrap();
    assert_eq!(call(&changed, &[2]).await, Err(FaultKind::NoInstance));
    // Nothing is waited for in place of a model that is down itself.
    let started = Instant::now();
    assert_eq!(replace(&models, "", &first).await, [""; 0]);
    assert!(started.elapsed().is_zero());
    assert_eq!(call(&models.get("m").unwrap(), &[3]).await, Ok(vec![6]));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_replaced_models_and_ends_changes() {
    let [first, second] = [Scripted::new([Act::Serve(500)]), Scripted::new([])];
    let (models, model) = models("", &[Arc::clone(&first)]);
    let held = Arc::clone(&model);
    let running = tokio::spawn(async move { call(&held, &[1]).await });
    first.arrival().await;
    replace(&models, "", &second).await;
    let started = Instant::now();
    assert_eq!(models.drain(started + Duration::from_millis(100)).await, Drained::Cut(1));
    assert_eq!(models.drain(started + Duration::from_secs(5)).await, Drained::Clean);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(running.await.unwrap(), Ok(vec![2]));
    assert_eq!(call(&model, &[2]).await, Err(FaultKind::Draining));
    let setups = vec![setup("", &[Arc::clone(&first)])];
    assert_eq!(models.change(&BTreeSet::new(), setups).await, Err(ShuttingDown));
    assert_eq!(call(&models.get("m").unwrap(), &[3]).await, Err(FaultKind::Draining));
}
