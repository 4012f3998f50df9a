//! What a running model server can be told to do: how long it takes, and how it misbehaves.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use super::trigger::Trigger;

/// How a fault is told to the caller, over each protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{message} (gRPC {grpc}, HTTP {http})")]
pub struct FaultStatus {
    /// The gRPC status code as a number, for example 14 for UNAVAILABLE.
    pub grpc: i32,
    /// The HTTP status code.
    pub http: u16,
    /// The message in the body or the gRPC status.
    pub message: String,
    /// The `retry-after` header in seconds.
    #[serde(default)]
    pub retry_after: Option<u32>,
}

/// At which moment a connection is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropMoment {
    /// TCP reset as soon as the request head is there.
    #[default]
    AtOnce,
    /// TCP reset when the reply is ready, before its first byte.
    BeforeReply,
    /// Closed after half of a whole reply, or after three pieces of a streamed one.
    MidReply,
}

/// How the server writes its KServe v2 gRPC outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputContents {
    /// In `raw_output_contents`, as Triton does.
    #[default]
    Raw,
    /// In the typed `contents` of each output, as MLServer does.
    Typed,
}

/// The time that one batch occupies a slot: `base + per_row * rows`, times the slow factor.
///
/// All zero costs nothing: no timer is set. Times are milliseconds in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceTime {
    /// The part that every batch costs.
    #[serde(rename = "base_ms", with = "milliseconds")]
    pub base: Duration,
    /// The part that every row costs.
    #[serde(rename = "per_row_ms", with = "milliseconds")]
    pub per_row: Duration,
    /// Rows are counted up to the next multiple of this, as a padding backend does. 0 and 1: off.
    pub pad_rows_to: u32,
}

impl ServiceTime {
    /// `base + per_row * rows` without padding.
    pub fn linear(base: Duration, per_row: Duration) -> Self {
        Self { base, per_row, pad_rows_to: 0 }
    }

    /// The time for a batch of `rows`.
    pub fn of(&self, rows: usize) -> Duration {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let padded = rows.checked_next_multiple_of(self.pad_rows_to.max(1)).unwrap_or(rows);
        self.base.saturating_add(self.per_row.saturating_mul(padded))
    }
}

/// Everything that can be changed while the server runs, also by `POST /control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a batch takes.
    pub service: ServiceTime,
    /// Multiplies the service time.
    pub slow_factor: f64,
    /// This many first executions take `slow_first_factor` times as long; counts down.
    pub slow_first: u64,
    /// See `slow_first`.
    pub slow_first_factor: f64,
    /// Time between two pieces of a streamed answer (JSON: milliseconds).
    #[serde(rename = "token_interval_ms", with = "milliseconds")]
    pub token_interval: Duration,
    /// Refuse generation whose request has `stream_options`, as servers do that do not know them.
    pub refuse_stream_options: bool,
    /// Larger batches are refused with INVALID_ARGUMENT / 400. 0: no limit. ModelConfig tells it.
    pub max_batch_size: u32,
    /// What health and readiness answer; while false, inference is refused with UNAVAILABLE / 503.
    pub ready: bool,
    /// Answer with `fail_with` at once, without executing.
    pub fail: Trigger,
    /// See `fail`; INTERNAL / 500 unless changed.
    pub fail_with: FaultStatus,
    /// Answer with `overload_with` at once, without executing.
    pub overload: Trigger,
    /// See `overload`; RESOURCE_EXHAUSTED / 429 with `retry-after: 1` unless changed.
    pub overload_with: FaultStatus,
    /// Accept the call and never answer.
    pub stall: Trigger,
    /// Drop the whole connection of the call, at `drop_moment`.
    pub drop_connection: Trigger,
    /// See `drop_connection`.
    pub drop_moment: DropMoment,
    /// Answer 200 / OK with bytes that are no message of the protocol.
    pub garbage: Trigger,
    /// Leave the last row out of every output.
    pub wrong_rows: Trigger,
    /// Fail the whole batch, after its service time, when any element is poisonous.
    pub poison: bool,
    /// A numeric element equal to this is poisonous.
    pub poison_number: f64,
    /// A text or BYTES element that contains this is poisonous.
    pub poison_text: String,
    /// See `poison`; INVALID_ARGUMENT / 400 unless changed.
    pub poison_with: FaultStatus,
    /// Answer no batch that executes, not even one that has begun, until this is off again; health
    /// stays green. A batch whose caller goes away makes room for the next.
    pub hang: bool,
    /// End the whole process at once when an element of a KServe v2 batch equals `lethal_number`.
    pub lethal: bool,
    /// See `lethal`.
    pub lethal_number: f64,
    /// How gRPC outputs are written.
    pub output_contents: OutputContents,
    /// How many of the latest executions [`Statistics::seen`](super::Statistics::seen) keeps.
    pub record: usize,
    /// How many of the latest KServe v2 batches [`ModelServer::journal`](super::ModelServer::journal)
    /// keeps; 0: none.
    pub journal: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service: ServiceTime::default(),
            slow_factor: 1.0,
            slow_first: 0,
            slow_first_factor: 10.0,
            token_interval: Duration::ZERO,
            refuse_stream_options: false,
            max_batch_size: 0,
            ready: true,
            fail: Trigger::Never,
            fail_with: FaultStatus::new(tonic::Code::Internal, 500, "injected failure"),
            overload: Trigger::Never,
            overload_with: FaultStatus {
                retry_after: Some(1),
                ..FaultStatus::new(tonic::Code::ResourceExhausted, 429, "injected overload")
            },
            stall: Trigger::Never,
            drop_connection: Trigger::Never,
            drop_moment: DropMoment::AtOnce,
            garbage: Trigger::Never,
            wrong_rows: Trigger::Never,
            poison: false,
            poison_number: 666.0,
            poison_text: "poison".to_owned(),
            poison_with: FaultStatus::invalid("the batch contains poison"),
            hang: false,
            lethal: false,
            lethal_number: 667.0,
            output_contents: OutputContents::Raw,
            record: 1024,
            journal: 0,
        }
    }
}

impl FaultStatus {
    /// A status without `retry-after`.
    pub fn new(grpc: tonic::Code, http: u16, message: impl Into<String>) -> Self {
        Self { grpc: grpc as i32, http, message: message.into(), retry_after: None }
    }

    /// INVALID_ARGUMENT / 400.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(tonic::Code::InvalidArgument, 400, message)
    }

    /// NOT_FOUND / 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(tonic::Code::NotFound, 404, message)
    }

    /// UNAVAILABLE / 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(tonic::Code::Unavailable, 503, message)
    }
}

impl From<FaultStatus> for tonic::Status {
    fn from(fault: FaultStatus) -> Self {
        let mut status = Self::new(tonic::Code::from_i32(fault.grpc), fault.message);
        if let Some(seconds) = fault.retry_after {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}

/// The faults drawn for one inference call.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) refuse: Option<FaultStatus>,
    pub(super) stall: bool,
    pub(super) drop: Option<DropMoment>,
    pub(super) garbage: bool,
}

impl Faults {
    /// What strikes first; `None` when nothing does.
    pub(super) fn name(&self) -> Option<&'static str> {
        match self {
            Self { stall: true, .. } => Some("stall"),
            Self { drop: Some(_), .. } => Some("drop"),
            Self { refuse: Some(_), .. } => Some("refuse"),
            Self { garbage: true, .. } => Some("garbage"),
            _ => None,
        }
    }
}

/// The settings of a running server, shared with whoever wants to change them.
#[derive(Debug)]
pub struct Switches {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    random: u64,
}

/// Why a change of the settings was refused.
#[derive(Debug, thiserror::Error)]
#[error("settings not changed: {0}")]
pub struct SettingsError(#[from] serde_json::Error);

impl Switches {
    /// Switches that stand at `settings`.
    pub fn new(settings: Settings) -> Self {
        let state = Mutex::new(State { settings, random: 0x0bad_cafe });
        Self { state, changed: Notify::new() }
    }

    /// A copy of the settings in force, with `next:` counts as far as they have run down.
    pub fn get(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Changes settings in place; later calls see the change, calls under way only that of `hang`.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
        self.changed.notify_waiters();
    }

    /// Merges a JSON object into the settings. On an error nothing has changed.
    pub fn merge(&self, patch: &Value) -> Result<Settings, SettingsError> {
        let mut state = self.state();
        let mut merged = serde_json::to_value(&state.settings)?;
        merge_json(&mut merged, patch);
        state.settings = serde_json::from_value(merged)?;
        self.changed.notify_waiters();
        Ok(state.settings.clone())
    }

    /// Draws the faults of one inference call.
    pub(super) fn draw(&self) -> Faults {
        let State { settings, random } = &mut *self.state();
        let mut faults = Faults {
            stall: settings.stall.strikes(random),
            drop: settings.drop_connection.strikes(random).then_some(settings.drop_moment),
            garbage: settings.garbage.strikes(random),
            refuse: None,
        };
        if !settings.ready {
            faults.refuse = Some(FaultStatus::unavailable("the server is not ready"));
        } else if settings.overload.strikes(random) {
            faults.refuse = Some(settings.overload_with.clone());
        } else if settings.fail.strikes(random) {
            faults.refuse = Some(settings.fail_with.clone());
        }
        faults
    }

    /// The service time of an execution that starts now.
    pub(super) fn service_time(&self, rows: usize) -> Duration {
        let mut state = self.state();
        let settings = &mut state.settings;
        let mut factor = settings.slow_factor;
        if settings.slow_first > 0 {
            settings.slow_first -= 1;
            factor *= settings.slow_first_factor;
        }
        let time = settings.service.of(rows);
        if time.is_zero() || factor == 1.0 {
            return time;
        }
        Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(time)
    }

    /// Returns once executions may be answered.
    pub(super) async fn while_hanging(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.read(|settings| settings.hang) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn draw_wrong_rows(&self) -> bool {
        let State { settings, random } = &mut *self.state();
        settings.wrong_rows.strikes(random)
    }

    /// Looks at settings without copying them.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(&self.state().settings)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn merge_json(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge_json(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// Durations as a JSON number of milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(time.as_secs_f64() * 1e3)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(milliseconds / 1e3).map_err(D::Error::custom)
    }
}
