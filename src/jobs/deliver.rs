//! The end of a batch: what it leaves becomes files of its owner. Every step can be done again.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::disk;
use super::files::{FileRecord, FileStore};
use super::job::Job;
use super::line::RequestLine;
use super::lines::{LineRead, LineReader};
use super::record::{Left, Record, Usage};
use super::requests::Jobs;
use super::result_line::Outcome;
use super::results::{Group, Results, error_path, output_path};
use super::scan::scan;
use super::state::Happening;

/// Bytes of lines that are written together.
const GROUP_BYTES: usize = 1 << 20;

/// Makes files of what a batch leaves, and ends it.
pub(super) async fn deliver(jobs: &Arc<Jobs>, job: &Arc<Job>) -> io::Result<()> {
    let delivery = Delivery {
        files: Arc::clone(&jobs.files),
        folder: jobs.folder(&job.record().id),
        record: job.record(),
        retention: jobs.plan.retention.as_secs(),
    };
    let (left, expired) = disk::blocking(move || delivery.run()).await?;
    jobs.metrics.expired.increment(u64::from(expired));
    job.set_counts((left.completed, left.failed));
    job.on(jobs, Happening::Delivered, |record| record.left = Some(left)).await
}

struct Delivery {
    files: Arc<FileStore>,
    folder: PathBuf,
    record: Arc<Record>,
    retention: u64,
}

impl Delivery {
    /// What the batch leaves, and how many of its requests were not answered in time.
    fn run(&self) -> io::Result<(Left, u32)> {
        let record = &*self.record;
        let is_begun = [&record.output_id, &record.error_id]
            .into_iter()
            .any(|id| self.files.path(id).exists());
        // Once the first file was delivered nothing is added any more.
        let expired = if is_begun { 0 } else { self.complete()? };
        let output = self.keep(&output_path(&self.folder), &record.output_id, "output")?;
        let errors = self.keep(&error_path(&self.folder), &record.error_id, "error")?;
        let usage = match output {
            0 => Usage::default(),
            _ => usage_of(File::open(self.files.path(&record.output_id))?)?,
        };
        let left = Left {
            completed: output,
            failed: errors,
            has_output: output > 0,
            has_errors: errors > 0,
            usage,
        };
        Ok((left, expired))
    }

    /// Cuts off what is not whole, and adds to the errors what was not answered in time.
    fn complete(&self) -> io::Result<u32> {
        let record = &*self.record;
        let mut results = Results::open(&self.folder, record.tag(), record.input.requests)?;
        let mut expired = 0;
        if record.state.overdue {
            expired = self.expire(&mut results)?;
        }
        results.sync()?;
        Ok(expired)
    }

    fn expire(&self, results: &mut Results) -> io::Result<u32> {
        let record = &*self.record;
        let source = match File::open(self.files.path(&record.input_file_id)) {
            Ok(file) => BufReader::new(file),
            // Without its requests there is nothing to say of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let answered = results.answered();
        let mut lines = LineReader::new(source, u64::MAX);
        let (mut line, mut group, mut expired) = (Vec::new(), Group::default(), 0);
        for number in 0..record.input.requests {
            if lines.next(&mut line)? == LineRead::End {
                break;
            }
            if answered.contains(number) {
                continue;
            }
            let Ok(request) = RequestLine::parse(&line, record.endpoint) else { continue };
            group.add(record.tag(), number, &request.custom_id, &Outcome::Expired);
            expired += 1;
            if group.bytes() >= GROUP_BYTES {
                results.append(&std::mem::take(&mut group))?;
            }
        }
        results.append(&group)?;
        Ok(expired)
    }

    /// Makes a file of the lines at `path`, unless there are none. Returns how many there are.
    fn keep(&self, path: &std::path::Path, id: &str, what: &str) -> io::Result<u32> {
        let record = &*self.record;
        let (source, is_new) = match File::open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match File::open(self.files.path(id)) {
                    Ok(file) => (file, false),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let bytes = source.metadata()?.len();
        let lines = scan(&mut BufReader::new(source), record.tag())?.numbers.len();
        if lines == 0 {
            disk::remove(path)?;
            return Ok(0);
        }
        let created_us = disk::now_us();
        let keep = record.output_expires_after.unwrap_or(self.retention);
        let file = FileRecord {
            id: id.to_owned(),
            owner: record.owner.clone(),
            created_us,
            filename: format!("{}_{what}.jsonl", record.id),
            purpose: "batch_output".to_owned(),
            bytes,
            expires_at: Some((created_us / 1_000_000).saturating_add(keep)),
        };
        let is_counted = !is_new && self.files.any(id).is_some();
        self.files.adopt(path, file)?;
        if !is_counted {
            self.files.count_in(bytes);
        }
        Ok(u32::try_from(lines).unwrap_or(u32::MAX))
    }
}

#[derive(Deserialize)]
struct OutputLine {
    response: Option<ResponseDocument>,
}

#[derive(Deserialize)]
struct ResponseDocument {
    body: BodyDocument,
}

#[derive(Deserialize)]
struct BodyDocument {
    #[serde(default)]
    usage: Option<UsageDocument>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UsageDocument {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

/// What the answers of an output cost, as far as they say so in a way that is known.
fn usage_of(output: File) -> io::Result<Usage> {
    let mut source = BufReader::new(output);
    let (mut usage, mut line) = (Usage::default(), Vec::new());
    while source.read_until(b'\n', &mut line)? > 0 {
        let said = serde_json::from_slice::<OutputLine>(&line).ok();
        line.clear();
        let Some(one) = said.and_then(|line| line.response?.body.usage) else { continue };
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut usage.input_tokens, one.prompt_tokens);
        add(&mut usage.output_tokens, one.completion_tokens);
        add(&mut usage.total_tokens, one.total_tokens);
        let cached = one.prompt_tokens_details.and_then(|it| it.cached_tokens);
        add(&mut usage.cached_tokens, cached.unwrap_or_default());
        let reasoning = one.completion_tokens_details.and_then(|it| it.reasoning_tokens);
        add(&mut usage.reasoning_tokens, reasoning.unwrap_or_default());
    }
    Ok(usage)
}
