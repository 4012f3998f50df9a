//! Answers the requests of a batch that are not answered.
//!
//! One task does it all: requests are read, asked for as the model's gate lets them, and written in
//! groups, each of which waits for the disk at most. When a line is written, its request is done.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::call::{LineAnswer, ask};
use super::disk;
use super::feed::{Input, Request, requests};
use super::gate::{Gate, Pass};
use super::job::{Interrupt, Job};
use super::record::Record;
use super::requests::Jobs;
use super::result_line::{Outcome, on_one_line, request_id};
use super::results::{Group, Results};
use super::retry::{Tries, Verdict};
use super::run::interrupt;
use super::state::Happening;
use crate::call::{Fault, Terms};
use crate::telemetry::BatchApiMetrics;
use crate::wire::problem::openai_body;
use crate::wire::status::http_status;

/// Lines that wait to be written.
const LINES_WAITING: usize = 64;
/// Bytes of lines that are written together.
const GROUP_BYTES: usize = 1 << 20;
/// How long a line may be written without being safe from a loss of power.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);
/// Before requests are asked for again that nobody would take.
const PAUSE: Duration = Duration::from_secs(1);

/// A request and what became of it.
struct Line {
    request: Request,
    outcome: Outcome,
}

/// Answers what is not answered of a batch, until all is or it must not go on.
pub(super) async fn work(jobs: &Arc<Jobs>, job: &Arc<Job>) -> io::Result<()> {
    let record = job.record();
    let gate = jobs.gates.of(record.input.model.as_deref().unwrap_or_default());
    let _turn = tokio::select! {
        biased;
        why = job.interrupted(jobs) => return interrupt(jobs, job, why).await,
        turn = gate.turns.acquire() => turn.map_err(io::Error::other)?,
    };
    let (folder, tag, count) =
        (jobs.folder(&record.id), record.tag().to_owned(), record.input.requests);
    let results = disk::blocking(move || Results::open(&folder, &tag, count)).await?;
    job.set_counts(results.counts());
    let answered = results.answered();
    if answered.is_complete() {
        return job.on(jobs, Happening::Answered, |_| {}).await;
    }
    let (lines, inbox) = mpsc::channel(LINES_WAITING);
    let asking = async {
        let input = Input {
            path: jobs.files.path(&record.input_file_id),
            endpoint: record.endpoint,
            longest: record.input.longest,
            answered,
            memory: (Arc::clone(&jobs.memory), jobs.memory_units),
        };
        ask_all(jobs, job, &gate, input, lines).await
    };
    let (asked, written) = tokio::join!(asking, write_all(jobs, job, results, inbox));
    let is_complete = written?.answered().is_complete();
    match asked? {
        Some(Interrupt::Stopped) => Ok(()),
        _ if is_complete => job.on(jobs, Happening::Answered, |_| {}).await,
        Some(why) => interrupt(jobs, job, why).await,
        None => {
            // Nobody would take the rest: the process is about to end.
            drop(tokio::time::timeout(PAUSE, jobs.stop.cancelled()).await);
            Ok(())
        }
    }
}

/// Asks for every request of `input`. What keeps it from going on, if anything does.
async fn ask_all(
    jobs: &Arc<Jobs>,
    job: &Job,
    gate: &Arc<Gate>,
    input: Input,
    lines: mpsc::Sender<Line>,
) -> io::Result<Option<Interrupt>> {
    let mut asked = answers(jobs, &job.record(), gate, input).await?;
    let sent = async {
        while let Some(line) = asked.next().await {
            let Some(line) = line? else { continue };
            if lines.send(line).await.is_err() {
                // The writer says why.
                break;
            }
        }
        Ok(None)
    };
    let given_up = async {
        match job.interrupted(jobs).await {
            // What runs may still be answered.
            Interrupt::Stopped => {
                jobs.cut.cancelled().await;
                Interrupt::Stopped
            }
            why => why,
        }
    };
    tokio::select! {
        biased;
        why = given_up => Ok(Some(why)),
        sent = sent => sent,
    }
}

/// What becomes of each request of `input`, in whatever order; `None` for one that was left.
async fn answers(
    jobs: &Arc<Jobs>,
    record: &Arc<Record>,
    gate: &Arc<Gate>,
    input: Input,
) -> io::Result<BoxStream<'static, io::Result<Option<Line>>>> {
    let most = jobs.plan.max_concurrent_lines as usize;
    let requests = requests(input).await?.take_until(jobs.stop.clone().cancelled_owned());
    // One request waits for its pass at a time: batches of one model take turns.
    let (stop, to_enter) = (jobs.stop.clone(), Arc::clone(gate));
    let passed = requests.then(move |request| {
        let (stop, gate) = (stop.clone(), Arc::clone(&to_enter));
        async move { (request, stop.run_until_cancelled_owned(enter(gate)).await.flatten()) }
    });
    let (jobs, record, gate) = (Arc::clone(jobs), Arc::clone(record), Arc::clone(gate));
    let asked = passed.map(move |(request, pass)| {
        let (jobs, record, gate) = (Arc::clone(&jobs), Arc::clone(&record), Arc::clone(&gate));
        async move {
            let request = request?;
            // Whatever happens, it gives its pass back, and the next one goes.
            let Some(_pass) = pass else { return Ok(None) };
            let outcome = ask_until_answered(&jobs, &gate, &record, &request).await;
            Ok(outcome.map(|outcome| Line { request, outcome }))
        }
    });
    Ok(asked.buffer_unordered(most).boxed())
}

async fn enter(gate: Arc<Gate>) -> Option<Pass> {
    gate.enter().await
}

/// What becomes of a request; `None` when the process ends before.
async fn ask_until_answered(
    jobs: &Jobs,
    gate: &Gate,
    record: &Record,
    request: &Request,
) -> Option<Outcome> {
    let mut tries = Tries::default();
    loop {
        let terms = Terms {
            request_id: request_id(record.tag(), request.number),
            priority: None,
            deadline: None,
            trace: None,
            tenant: record.owner.name().map(Into::into),
        };
        let answer = ask(&jobs.models, record.endpoint, request.body.clone(), terms).await;
        let fault = match answer {
            Ok(LineAnswer { status, body, waited, took }) => {
                gate.answered(waited, took, record.endpoint.shares_batches());
                return Some(Outcome::Answered(status, body));
            }
            Err(fault) => fault,
        };
        let pause = match tries.after(&fault) {
            Verdict::Leave => return None,
            Verdict::Final => return Some(failed(&fault)),
            Verdict::Again(pause) => pause,
            Verdict::Wait(pause) => {
                gate.refused();
                pause
            }
        };
        jobs.metrics.retried.increment(1);
        tokio::select! {
            biased;
            () = jobs.stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn failed(fault: &Fault) -> Outcome {
    let body = on_one_line(&openai_body(fault).into());
    Outcome::Failed(http_status(fault), body.unwrap_or_else(|| "{}".into()))
}

/// Writes lines as they come until there are no more, and gives the results back when all of them
/// are on the disk.
async fn write_all(
    jobs: &Jobs,
    job: &Job,
    mut results: Results,
    mut inbox: mpsc::Receiver<Line>,
) -> io::Result<Results> {
    let tag = job.record().tag().to_owned();
    let mut is_open = true;
    let mut synced = Instant::now();
    let mut is_dirty = false;
    while is_open || is_dirty {
        let mut group = Group::default();
        let patience = if is_dirty { synced + SYNC_INTERVAL } else { Instant::now() + PAUSE };
        match tokio::time::timeout_at(patience, inbox.recv()).await {
            Ok(None) => is_open = false,
            Ok(Some(first)) => {
                add(&mut group, &tag, first, &jobs.metrics);
                while group.bytes() < GROUP_BYTES
                    && let Ok(next) = inbox.try_recv()
                {
                    add(&mut group, &tag, next, &jobs.metrics);
                }
                is_dirty = true;
            }
            Err(_) => {}
        }
        let must_sync = is_dirty && (!is_open || synced.elapsed() >= SYNC_INTERVAL);
        if group.bytes() == 0 && !must_sync {
            continue;
        }
        results = disk::blocking(move || {
            results.append(&group)?;
            if must_sync {
                results.sync()?;
            }
            Ok(results)
        })
        .await?;
        if must_sync {
            (synced, is_dirty) = (Instant::now(), false);
        }
        job.set_counts(results.counts());
    }
    Ok(results)
}

fn add(group: &mut Group, tag: &str, line: Line, metrics: &BatchApiMetrics) {
    let Line { request, outcome } = line;
    group.add(tag, request.number, &request.custom_id, &outcome);
    match outcome.is_success() {
        true => metrics.completed.increment(1),
        false => metrics.failed.increment(1),
    }
}
