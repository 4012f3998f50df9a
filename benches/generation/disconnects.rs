//! Callers that go away, at every point of a call's way: the engine stops working for them at once.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;

use super::caller::Question;
use super::{Arguments, Scene, Verdicts};
use crate::support::Failure;

const LONG: Question = Question { priority: 2, tokens: 100_000, stream: true };
const WHOLE: Question = Question { stream: false, ..LONG };
/// Within which the engine must have stopped.
const SOON: Duration = Duration::from_secs(1);
/// A step that does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the caller goes away.
#[derive(Clone, Copy, Debug)]
enum Point {
    Queued,
    BeforeFirstEvent,
    MidStream,
    WholeReply,
}

pub(crate) async fn run(arguments: &Arguments, verdicts: &mut Verdicts) -> Result<(), Failure> {
    for point in [Point::Queued, Point::BeforeFirstEvent, Point::MidStream, Point::WholeReply] {
        let scene = Scene::start(arguments, "max_concurrency = 1").await?;
        let took = leave(&scene, point).await?;
        let what = format!("{point:?}: seconds until the engine stops");
        verdicts.hold(&what, took.as_secs_f64(), SOON.as_secs_f64(), took <= SOON)?;
        let mut left = 0.0;
        for gauge in ["batchwise_queue_depth", "batchwise_instance_inflight"] {
            left += scene.proxy.metric(gauge).await?.iter().map(|(_, value)| value).sum::<f64>();
        }
        verdicts.hold(&format!("{point:?}: left in gauges"), left, 0.0, left == 0.0)?;
    }
    Ok(())
}

/// How long the engine goes on for a caller that has gone.
async fn leave(scene: &Scene, point: Point) -> Result<Duration, Failure> {
    let caller = scene.caller.clone();
    let first = match point {
        Point::Queued => {
            let running = tokio::spawn({
                let caller = caller.clone();
                async move { caller.ask(LONG).await.map(http::Response::into_body) }
            });
            until(|| scene.engine.sequences() == 1).await?;
            Some(running)
        }
        _ => None,
    };
    let question = if matches!(point, Point::WholeReply) { WHOLE } else { LONG };
    let task = tokio::spawn(async move {
        let mut body = caller.ask(question).await?.into_body();
        if matches!(point, Point::MidStream) {
            for _ in 0..3 {
                body.frame().await;
            }
        }
        // Whoever wants to go has got where it wanted.
        Ok::<_, Failure>(body)
    });
    match point {
        Point::Queued => {
            while !waits(scene).await? {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Point::BeforeFirstEvent | Point::WholeReply => {
            until(|| scene.engine.sequences() == 1).await?;
        }
        Point::MidStream => until(|| task.is_finished()).await?,
    }
    task.abort();
    drop(task.await);
    let went = Instant::now();
    if let Some(first) = first {
        while waits(scene).await? {
            if went.elapsed() > PATIENCE {
                return Err("a caller that has gone still waits".into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(first.await?);
        until(|| scene.engine.sequences() == 0).await?;
        // The one that waited was never sent.
        if scene.engine.arrived() != 1 {
            return Err("a call whose caller had gone was sent".into());
        }
    } else {
        until(|| scene.engine.sequences() == 0).await?;
    }
    let took = went.elapsed();
    while scene
        .proxy
        .metric("batchwise_instance_inflight")
        .await?
        .iter()
        .any(|(_, value)| *value > 0.0)
        && went.elapsed() < PATIENCE
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(took)
}

/// Whether a call waits in the proxy.
async fn waits(scene: &Scene) -> Result<bool, Failure> {
    let depth = scene.proxy.metric("batchwise_queue_depth").await?;
    Ok(depth.iter().any(|(_, depth)| *depth > 0.0))
}

async fn until(mut condition: impl FnMut() -> bool) -> Result<(), Failure> {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > give_up {
            return Err("what was waited for did not come".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
