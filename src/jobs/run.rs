//! A batch from one status to the next, until its end.

use std::fs::File;
use std::io::{self, BufReader};
use std::sync::Arc;
use std::time::Duration;

use super::job::{Interrupt, Job};
use super::line::{quoted, wrong};
use super::record::LineError;
use super::requests::Jobs;
use super::state::{Happening, Status};
use super::validate::{Rules, Verdict, validate};
use super::{deliver, disk, open, work};
use crate::engine::Models;

/// How long a disk that fails is left alone.
const DISK_PAUSE: Duration = Duration::from_secs(10);

/// Runs a batch to its end, or until the process stops. What a disk refused is done anew from what
/// is on it, as after a crash.
pub(super) async fn run(jobs: Arc<Jobs>, job: Arc<Job>) {
    while !job.status().is_final() && !jobs.stop.is_cancelled() {
        let done = match job.status() {
            Status::Validating => look_through(&jobs, &job).await,
            Status::InProgress => work::work(&jobs, &job).await,
            _ => deliver::deliver(&jobs, &job).await,
        };
        if let Err(error) = done {
            let batch = &job.record().id;
            tracing::error!(batch, %error, "the disk fails a batch, which is tried again");
            drop(tokio::time::timeout(DISK_PAUSE, jobs.stop.cancelled()).await);
        }
    }
}

/// Goes by what must end a batch.
pub(super) async fn interrupt(jobs: &Jobs, job: &Job, why: Interrupt) -> io::Result<()> {
    match why {
        Interrupt::Stopped => Ok(()),
        Interrupt::Cancelled => job.on(jobs, Happening::CancelAsked, |_| {}).await,
        Interrupt::Expired => job.on(jobs, Happening::WindowClosed, |_| {}).await,
    }
}

/// Looks through the input of a batch, so that nothing of a wrong one is run.
async fn look_through(jobs: &Arc<Jobs>, job: &Arc<Job>) -> io::Result<()> {
    let interrupted = job.interrupted(jobs);
    let validated = async {
        // It is never closed.
        let _turn = jobs.validations.acquire().await.ok();
        validation(jobs, job).await
    };
    let verdict = tokio::select! {
        biased;
        why = interrupted => return interrupt(jobs, job, why).await,
        verdict = validated => verdict?,
    };
    match verdict {
        Verdict::Fine(input) => {
            job.on(jobs, Happening::Validated, |record| record.input = input).await
        }
        Verdict::Wrong(errors) => {
            job.on(jobs, Happening::Refused, |record| record.errors = errors).await
        }
        // Whatever it was that halted it is what happens next.
        Verdict::Halted => Ok(()),
    }
}

async fn validation(jobs: &Arc<Jobs>, job: &Arc<Job>) -> io::Result<Verdict> {
    let record = job.record();
    let (endpoint, max_lines) = (record.endpoint, jobs.plan.max_lines);
    let rules = Rules { endpoint, max_lines, max_line_bytes: jobs.max_line_bytes };
    let (jobs, cancel) = (Arc::clone(jobs), job.cancel.clone());
    disk::blocking(move || {
        let source = match File::open(jobs.files.path(&record.input_file_id)) {
            Ok(file) => BufReader::with_capacity(open::CHUNK as usize, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = "the input file was deleted".to_owned();
                return Ok(Verdict::Wrong(vec![wrong("file_not_found", message, "input_file_id")]));
            }
            Err(error) => return Err(error),
        };
        let knows = |model: &str| knows(&jobs.models, model, &rules);
        let is_wanted = || !cancel.is_cancelled() && !jobs.stop.is_cancelled();
        validate(source, &rules, knows, is_wanted)
    })
    .await
}

/// Why a model cannot answer the requests of a batch.
fn knows(models: &Models, name: &str, rules: &Rules) -> Result<(), LineError> {
    let Some(model) = models.get(name) else {
        let message = format!("there is no model {}", quoted(name));
        return Err(wrong("model_not_found", message, "body.model"));
    };
    if !rules.endpoint.is_answered_by(model.kind()) {
        let message = format!("model {} does not answer {}", quoted(name), rules.endpoint.path());
        return Err(wrong("model_not_found", message, "body.model"));
    }
    Ok(())
}
