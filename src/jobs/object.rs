//! Files and batches as OpenAI's clients know them, key for key.

use std::collections::BTreeMap;

use serde::Serialize;

use super::endpoint::Endpoint;
use super::files::FileRecord;
use super::record::{Left, LineError, Record, Usage};
use super::state::State;

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileObject {
    object: &'static str,
    id: String,
    purpose: String,
    filename: String,
    bytes: u64,
    created_at: u64,
    expires_at: Option<u64>,
    status: &'static str,
    status_details: Option<()>,
}

impl From<&FileRecord> for FileObject {
    fn from(file: &FileRecord) -> Self {
        Self {
            object: "file",
            id: file.id.clone(),
            purpose: file.purpose.clone(),
            filename: file.filename.clone(),
            bytes: file.bytes,
            created_at: file.created_us / 1_000_000,
            expires_at: file.expires_at,
            status: "processed",
            status_details: None,
        }
    }
}

/// A file that is no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl Deleted {
    pub(super) fn file(id: &str) -> Self {
        Self { id: id.to_owned(), object: "file", deleted: true }
    }
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchObject {
    id: String,
    object: &'static str,
    endpoint: Endpoint,
    model: Option<String>,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: String,
    status: &'static str,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: u64,
    in_progress_at: Option<u64>,
    expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    request_counts: RequestCounts,
    usage: Option<UsageObject>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Errors {
    object: &'static str,
    data: Vec<LineError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct RequestCounts {
    total: u32,
    completed: u32,
    failed: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct UsageObject {
    input_tokens: u64,
    input_tokens_details: InputTokens,
    output_tokens: u64,
    output_tokens_details: OutputTokens,
    total_tokens: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct InputTokens {
    cached_tokens: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OutputTokens {
    reasoning_tokens: u64,
}

impl From<Usage> for UsageObject {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            input_tokens_details: InputTokens { cached_tokens: usage.cached_tokens },
            output_tokens: usage.output_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.total_tokens,
        }
    }
}

impl BatchObject {
    /// A batch of whose requests so many were answered so far, with success and with an error.
    pub(super) fn of(record: &Record, (completed, failed): (u32, u32)) -> Self {
        let State { status, expires_at, .. } = record.state;
        let state = &record.state;
        let left = record.left.as_ref();
        let named =
            |has: fn(&Left) -> bool, id: &String| left.filter(|it| has(it)).map(|_| id.clone());
        let counts = left.map_or((completed, failed), |left| (left.completed, left.failed));
        let errors = Errors { object: "list", data: record.errors.clone() };
        Self {
            id: record.id.clone(),
            object: "batch",
            endpoint: record.endpoint,
            model: record.input.model.clone(),
            errors: (!record.errors.is_empty()).then_some(errors),
            input_file_id: record.input_file_id.clone(),
            completion_window: record.completion_window.clone(),
            status: status.name(),
            output_file_id: named(|left| left.has_output, &record.output_id),
            error_file_id: named(|left| left.has_errors, &record.error_id),
            created_at: record.created_us / 1_000_000,
            in_progress_at: state.in_progress_at,
            expires_at,
            finalizing_at: state.finalizing_at,
            completed_at: state.completed_at,
            failed_at: state.failed_at,
            expired_at: state.expired_at,
            cancelling_at: state.cancelling_at,
            cancelled_at: state.cancelled_at,
            request_counts: RequestCounts {
                total: record.input.requests,
                completed: counts.0,
                failed: counts.1,
            },
            usage: left.map(|left| left.usage.into()),
            metadata: record.metadata.clone(),
        }
    }
}
