//! A new batch, from what a caller wants.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::endpoint::Endpoint;
use super::job::{self, Job};
use super::line::quoted;
use super::object::BatchObject;
use super::owner::Owner;
use super::record::{Input, Record};
use super::requests::{Jobs, MOST_BATCHES, internal};
use super::state::State;
use super::upload::KEEP_SECONDS;
use super::{disk, id};
use crate::call::{Fault, FaultKind};

/// The only time that the API knows.
const WINDOW: &str = "24h";
const MOST_PAIRS: usize = 16;
const LONGEST_KEY: usize = 64;
const LONGEST_VALUE: usize = 512;
/// Batches of one owner that have not ended.
const MOST_UNFINISHED: usize = 1000;

#[derive(Deserialize)]
struct Wanted {
    input_file_id: Option<serde_json::Value>,
    endpoint: Option<serde_json::Value>,
    completion_window: Option<serde_json::Value>,
    metadata: Option<serde_json::Value>,
    output_expires_after: Option<serde_json::Value>,
}

impl Jobs {
    /// Begins a batch with what the body of a request says.
    ///
    /// # Errors
    /// When a field is wrong, or there are too many batches.
    pub async fn create(&self, owner: &Owner, body: &[u8]) -> Result<BatchObject, Fault> {
        let record = self.plan_batch(owner, body)?;
        let id = record.id.clone();
        self.make_room(owner).await?;
        let folder = self.folder(&id);
        let written = disk::blocking(move || {
            std::fs::create_dir(&folder)?;
            disk::sync_folder_of(&folder)?;
            job::write(&folder, &record)?;
            Ok(record)
        });
        let record = written.await.map_err(|error| internal("keep a batch", &error))?;
        let job = Arc::new(Job::new(record));
        self.metrics.entered(job.status().name());
        self.lock().insert(id, Arc::clone(&job));
        // The runner has ended: whoever runs next finds the batch on the disk.
        drop(self.wake.try_send(Arc::clone(&job)));
        Ok(job.object())
    }

    /// Makes room for one more batch: that which ended first goes, whoever's it is.
    async fn make_room(&self, owner: &Owner) -> Result<(), Fault> {
        let (count, unfinished, oldest) = {
            let jobs = self.lock();
            let records = || jobs.values().map(|job| job.record());
            let is_open = |record: &Arc<Record>| !record.state.status.is_final();
            let unfinished = records().filter(|it| is_open(it) && it.owner == *owner).count();
            let ended = records().filter(|it| !is_open(it));
            (jobs.len(), unfinished, ended.min_by_key(|record| record.state.ended_at()))
        };
        if unfinished >= MOST_UNFINISHED {
            return Err(too_many("you have as many unfinished batches as you may"));
        }
        if count < MOST_BATCHES {
            return Ok(());
        }
        let oldest = oldest.ok_or_else(|| too_many("there are as many batches as there may be"))?;
        let folder = self.folder(&oldest.id);
        let removed = disk::blocking(move || disk::remove_folder(&folder)).await;
        removed.map_err(|error| internal("remove a batch", &error))?;
        self.forget(&oldest);
        Ok(())
    }

    fn plan_batch(&self, owner: &Owner, body: &[u8]) -> Result<Record, Fault> {
        let wanted: Wanted = match body.trim_ascii_start().first() {
            Some(b'{') => serde_json::from_slice(body).map_err(|error| {
                Fault::invalid("body", format!("the body is not valid JSON: {error}"))
            })?,
            _ => return Err(Fault::invalid("body", "the body must be a JSON object")),
        };
        let endpoint = text(wanted.endpoint, "endpoint")?;
        let endpoint = Endpoint::of_path(&endpoint).ok_or_else(|| {
            let known = Endpoint::ALL.map(Endpoint::path).join(", ");
            let message = format!("endpoint is {}, but must be one of {known}", quoted(&endpoint));
            Fault::invalid("endpoint", message)
        })?;
        let completion_window = text(wanted.completion_window, "completion_window")?;
        if completion_window != WINDOW {
            let message = format!("completion_window must be \"{WINDOW}\"");
            return Err(Fault::invalid("completion_window", message));
        }
        let input_file_id = text(wanted.input_file_id, "input_file_id")?;
        let file = self
            .file_record(owner, &input_file_id)
            .map_err(|fault| Fault::invalid("input_file_id", fault.message))?;
        if file.purpose != "batch" {
            let message = format!("file {} was not sent with purpose \"batch\"", file.id);
            return Err(Fault::invalid("input_file_id", message));
        }
        let metadata = wanted.metadata.map(metadata).transpose()?;
        let output_expires_after = wanted.output_expires_after.map(keep_seconds).transpose()?;
        let fresh = |prefix| id::fresh(prefix).map_err(|error: io::Error| internal("name", &error));
        let created_us = disk::now_us();
        let expires_at = created_us / 1_000_000 + self.plan.completion_window.as_secs();
        Ok(Record {
            id: fresh(id::BATCH)?,
            owner: owner.clone(),
            created_us,
            endpoint,
            input_file_id,
            completion_window,
            metadata,
            output_expires_after,
            state: State::new(expires_at),
            input: Input::default(),
            errors: Vec::new(),
            output_id: fresh(id::FILE)?,
            error_id: fresh(id::FILE)?,
            left: None,
        })
    }
}

fn too_many(message: &'static str) -> Fault {
    Fault::new(FaultKind::QueueFull, message).with_retry_after(Duration::from_secs(60))
}

fn text(value: Option<serde_json::Value>, field: &'static str) -> Result<String, Fault> {
    match value {
        Some(serde_json::Value::String(text)) => Ok(text),
        None => Err(Fault::invalid(field, format!("field '{field}' is missing"))),
        Some(_) => Err(Fault::invalid(field, format!("'{field}' must be a string"))),
    }
}

fn metadata(value: serde_json::Value) -> Result<BTreeMap<String, String>, Fault> {
    let pairs: BTreeMap<String, String> = serde_json::from_value(value)
        .map_err(|_| Fault::invalid("metadata", "'metadata' must be an object of strings"))?;
    let is_long = |(key, value): (&String, &String)| {
        key.chars().count() > LONGEST_KEY || value.chars().count() > LONGEST_VALUE
    };
    if pairs.len() > MOST_PAIRS || pairs.iter().any(is_long) {
        let message = format!(
            "'metadata' may have {MOST_PAIRS} pairs, keys of {LONGEST_KEY} and values of \
             {LONGEST_VALUE} characters"
        );
        return Err(Fault::invalid("metadata", message));
    }
    Ok(pairs)
}

fn keep_seconds(value: serde_json::Value) -> Result<u64, Fault> {
    #[derive(Deserialize)]
    struct ExpiresAfter {
        anchor: String,
        seconds: u64,
    }
    let field = "output_expires_after";
    let wanted: Option<ExpiresAfter> = serde_json::from_value(value).ok();
    let fine = |wanted: &ExpiresAfter| {
        wanted.anchor == "created_at" && KEEP_SECONDS.contains(&wanted.seconds)
    };
    wanted.filter(fine).map(|wanted| wanted.seconds).ok_or_else(|| {
        let (least, most) = (KEEP_SECONDS.start(), KEEP_SECONDS.end());
        let message = format!(
            "'{field}' must be {{\"anchor\": \"created_at\", \"seconds\": {least} to {most}}}"
        );
        Fault::invalid(field, message)
    })
}
