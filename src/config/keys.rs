//! The keys of `models.toml`: the one definition behind reading, messages, schema and reference.

mod model;

use std::time::Duration;

use self::model::MODEL;
use super::plan::Protocol;

/// The longest duration that may be configured: a day.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// The shortest duration where zero would be a busy loop or an answer that never comes.
const DURATION_MIN: Duration = Duration::from_millis(1);
/// The longest time that anything may be kept: ten years.
const RETENTION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The shortest time that a file is kept: a caller must have the time to fetch it.
const RETENTION_MIN: Duration = Duration::from_secs(3600);
/// The largest count of anything: small enough that sums and products of two cannot overflow 64 bits.
const COUNT_MAX: u64 = 1_000_000_000;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text that is not empty.
    Text,
    /// A list of texts, at least one.
    TextList,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IP address with a port.
    Address,
    /// A duration within these bounds.
    Duration(Duration, Duration),
    /// The same, or `"auto"`.
    DurationOrAuto(Duration, Duration),
    /// A number of bytes within these bounds.
    Size(u64, u64),
    /// A whole number within these bounds.
    Integer(u64, u64),
    /// The same, or `"auto"`.
    IntegerOrAuto(u64, u64),
    /// A number above 0, at most 1.
    Ratio,
    /// `true` or `false`.
    Boolean,
}

impl Kind {
    /// What would be right, to end the sentence "write ...".
    #[must_use]
    pub fn expected(self) -> String {
        match self {
            Self::Text => "a text in quotes".into(),
            Self::TextList => "a list of texts, such as [\"http://10.0.0.1:8001\"]".into(),
            Self::Choice(words) => format!("one of {}", quoted_list(words)),
            Self::Address => "an IP address and port, such as \"127.0.0.1:8000\"".into(),
            Self::Duration(..) => "a duration such as \"250us\", \"5ms\" or \"2s\"".into(),
            Self::DurationOrAuto(..) => "\"auto\", or a duration such as \"5ms\"".into(),
            Self::Size(..) => "a size such as \"64MiB\", or a number of bytes".into(),
            Self::Integer(..) => "a whole number".into(),
            Self::IntegerOrAuto(..) => "\"auto\", or a whole number".into(),
            Self::Ratio => "a number above 0, at most 1".into(),
            Self::Boolean => "true or false".into(),
        }
    }
}

fn quoted_list(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default as TOML; `None` when the key must be given, or when absence has a meaning of its own.
    pub default: Option<&'static str>,
    /// Whether the table is incomplete without it.
    pub required: bool,
    /// What it does, in one sentence.
    pub about: &'static str,
}

impl Key {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self { name, kind, default: Some(default), required: false, about }
    }

    const fn absent(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, kind, default: None, required: false, about }
    }

    const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, kind, default: None, required: true, about }
    }
}

/// One table of the file, and what may stand in it.
#[derive(Debug)]
pub struct Table {
    /// Its name inside the table around it.
    pub name: &'static str,
    /// How its place reads in a message, such as `in [[model]]`.
    pub place: &'static str,
    /// Its dotted path, such as `model.health`; empty for the top level.
    pub path: &'static str,
    /// Whether it is a list of tables, written in double brackets.
    pub list: bool,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// The tables inside it.
    pub tables: &'static [&'static Table],
    /// Tables that are part of the format, but that this version does not act upon.
    pub unsupported: &'static [&'static str],
}

impl Table {
    /// The key of this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// Every name that has a meaning in this table.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let keys = self.keys.iter().map(|key| key.name);
        keys.chain(self.tables.iter().map(|table| table.name))
    }

    /// This table and every table inside it.
    #[must_use]
    pub fn all(&'static self) -> Vec<&'static Self> {
        let inside = self.tables.iter().flat_map(|table| table.all());
        std::iter::once(self).chain(inside).collect()
    }
}

/// The names of the protocols, for [`Kind::Choice`].
pub(super) const PROTOCOLS: [&str; Protocol::ALL.len()] = {
    let mut names = [""; Protocol::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = Protocol::ALL[index].name();
        index += 1;
    }
    names
};

/// The top level of the file.
pub static ROOT: Table = Table {
    name: "",
    place: "at the top level",
    path: "",
    list: false,
    about: "The configuration of batchwise.",
    keys: &[],
    tables: &[&SERVER, &TELEMETRY, &BATCH_API, &MODEL],
    unsupported: &["auth", "tenant", "rate_limit", "cache"],
};

static SERVER: Table = Table {
    name: "server",
    place: "in [server]",
    path: "server",
    list: false,
    about: "The listeners, and the limits that all models share.",
    keys: &[
        Key::new(
            "http",
            Kind::Address,
            "\"127.0.0.1:8000\"",
            "Listens for KServe v2 and v1 over HTTP, and OpenAI.",
        ),
        Key::new("grpc", Kind::Address, "\"127.0.0.1:8001\"", "Listens for KServe v2 over gRPC."),
        Key::new(
            "admin",
            Kind::Address,
            "\"127.0.0.1:8002\"",
            "Listens for metrics, health, status and control.",
        ),
        Key::new(
            "shutdown_delay",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"0s\"",
            "How long new calls are still accepted once shutdown began and health checks say so.",
        ),
        Key::new(
            "shutdown_grace",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"30s\"",
            "How long accepted calls may take to finish once shutdown began.",
        ),
        Key::new(
            "max_request_bytes",
            Kind::Size(1, u32::MAX as u64),
            "\"64MiB\"",
            "The largest request body that is read.",
        ),
        Key::new(
            "max_connections",
            Kind::Integer(1, 1_000_000),
            "16384",
            "Connections open at once, over the listeners for calls.",
        ),
        Key::new(
            "max_buffered_bytes",
            Kind::Size(1, 1 << 40),
            "\"1GiB\"",
            "Bytes of requests in memory at once, from their reading to their answer; beyond it calls are refused unread.",
        ),
        Key::new(
            "read_timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"30s\"",
            "How long a caller may send nothing in the middle of a request.",
        ),
        Key::new(
            "write_timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"30s\"",
            "How long a caller may take nothing of an answer that is there.",
        ),
        Key::new(
            "trust_tenant_header",
            Kind::Boolean,
            "false",
            "Whether header `x-tenant-id` says who a call is from; only behind a gateway that sets it.",
        ),
        Key::new(
            "worker_threads",
            Kind::IntegerOrAuto(1, 1024),
            "\"auto\"",
            "Threads that serve calls; auto is one less than the processors, at least 1.",
        ),
    ],
    tables: &[],
    unsupported: &["tls"],
};

static TELEMETRY: Table = Table {
    name: "telemetry",
    place: "in [telemetry]",
    path: "telemetry",
    list: false,
    about: "Where the spans of calls and batches are sent; other settings are OpenTelemetry's own, in the environment.",
    keys: &[
        Key::absent(
            "otlp_endpoint",
            Kind::Text,
            "URL of a collector that takes OTLP, such as http://127.0.0.1:4317: over HTTP on port 4318, else by gRPC. Without it `OTEL_EXPORTER_OTLP_ENDPOINT` counts, and where that is not set nothing is traced.",
        ),
        Key::absent(
            "sample_ratio",
            Kind::Ratio,
            "Share that is recorded of the traces that begin here; without it `OTEL_TRACES_SAMPLER` counts, else all are. Traces that callers bring follow their sampled flag.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static BATCH_API: Table = Table {
    name: "batch_api",
    place: "in [batch_api]",
    path: "batch_api",
    list: false,
    about: "OpenAI's Batch API: /v1/files and /v1/batches, switched on by this table.",
    keys: &[
        Key::required(
            "directory",
            Kind::Text,
            "Where files and batches are kept; made when it is not there, used by one process at a time.",
        ),
        Key::new(
            "max_file_bytes",
            Kind::Size(1, 1 << 40),
            "\"200MB\"",
            "The largest file that is taken.",
        ),
        Key::new(
            "max_stored_bytes",
            Kind::Size(1, 1 << 50),
            "\"20GiB\"",
            "Bytes of all files together; beyond it no further file is taken.",
        ),
        Key::new("max_lines", Kind::Integer(1, 10_000_000), "50000", "Requests in one batch."),
        Key::new(
            "max_concurrent_lines",
            Kind::Integer(1, 65_536),
            "256",
            "Requests of batches that wait or run at once for one model; as many as it can use is learned.",
        ),
        Key::new(
            "retention",
            Kind::Duration(RETENTION_MIN, RETENTION_MAX),
            "\"720h\"",
            "How long files are kept, and batches after their end.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};
