//! What is kept of a batch beside its lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use super::owner::Owner;
use super::state::{Happening, State};

/// What is kept of a batch beside its lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) owner: Owner,
    /// Microseconds since 1970: also the order of lists.
    pub(super) created_us: u64,
    pub(super) endpoint: Endpoint,
    pub(super) input_file_id: String,
    pub(super) completion_window: String,
    pub(super) metadata: Option<BTreeMap<String, String>>,
    /// Seconds that the files which it leaves are kept; `None`: as others.
    pub(super) output_expires_after: Option<u64>,
    pub(super) state: State,
    /// What the validation found out.
    #[serde(default)]
    pub(super) input: Input,
    /// What is wrong with the input.
    #[serde(default)]
    pub(super) errors: Vec<LineError>,
    /// What the files are called that it leaves; they need not come to be.
    pub(super) output_id: String,
    pub(super) error_id: String,
    /// What it left, once it has ended.
    #[serde(default)]
    pub(super) left: Option<Left>,
}

/// What the validation found out about an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    /// The model that all requests name.
    pub(super) model: Option<String>,
    /// How many requests there are.
    pub(super) requests: u32,
    /// Bytes of the longest line.
    pub(super) longest: u64,
}

/// What a batch left that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Left {
    pub(super) completed: u32,
    pub(super) failed: u32,
    pub(super) has_output: bool,
    pub(super) has_errors: bool,
    pub(super) usage: Usage,
}

/// Tokens that the answers cost, as far as they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) input_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) reasoning_tokens: u64,
    pub(super) total_tokens: u64,
}

/// What is wrong with an input, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LineError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    /// From 1; `None` when it is about no single line.
    pub(super) line: Option<u64>,
}

impl Record {
    /// The record once something has happened; `None` when that changes nothing.
    pub(super) fn on(&self, happening: Happening, now: u64) -> Option<Self> {
        let state = self.state.on(happening, now)?;
        Some(Self { state, ..self.clone() })
    }

    /// The middle of the ids of its lines: 24 hexadecimal digits.
    pub(super) fn tag(&self) -> &str {
        let start = super::id::BATCH.len();
        self.id.get(start..start + super::result_line::TAG).unwrap_or_default()
    }
}
