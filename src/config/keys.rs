//! The keys of `models.toml`: the one definition behind reading, messages, schema and reference.

use std::time::Duration;

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
    tables: &[&SERVER, &BATCH_API, &MODEL],
    unsupported: &["auth", "tenant", "rate_limit", "cache", "telemetry"],
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

static MODEL: Table = Table {
    name: "model",
    place: "in [[model]]",
    path: "model",
    list: true,
    about: "A model: its instances and how its calls are queued, batched and protected.",
    keys: &[
        Key::required("name", Kind::Text, "The name that callers use."),
        Key::required("protocol", Kind::Choice(&PROTOCOLS), "What the instances speak."),
        Key::required(
            "instances",
            Kind::TextList,
            "URLs of the servers; for `embedded`: `digits`, `embedding`, `echo` or `onnx:PATH`, once per instance.",
        ),
        Key::absent(
            "upstream_name",
            Kind::Text,
            "The model's name on its instances, when it is another.",
        ),
        Key::absent(
            "max_batch_size",
            Kind::Integer(0, 1_000_000),
            "Rows in one batch; without it asked of the instance, else learned. 1: every call alone; 0: the model has no batch axis, as in Triton.",
        ),
        Key::absent(
            "max_batch_bytes",
            Kind::Size(1, 1 << 40),
            "Bytes in one batch; a call with more is split, or sent alone.",
        ),
        Key::absent(
            "max_batch_tokens",
            Kind::Integer(1, COUNT_MAX),
            "Tokens in one batch of texts, all counted as long as the longest.",
        ),
        Key::new(
            "max_queue_delay",
            Kind::DurationOrAuto(Duration::ZERO, DURATION_MAX),
            "\"auto\"",
            "How long a call may wait for company.",
        ),
        Key::absent(
            "slo",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "Latency to keep at the 99th percentile.",
        ),
        Key::new(
            "max_queue_size",
            Kind::Integer(1, COUNT_MAX),
            "4096",
            "Rows that may wait; beyond it a call is refused or one of lower priority is shed.",
        ),
        Key::new(
            "max_queue_bytes",
            Kind::Size(1, 1 << 40),
            "\"256MiB\"",
            "Bytes that may wait; beyond it the same happens.",
        ),
        Key::new(
            "priority_levels",
            Kind::Integer(1, 16),
            "3",
            "Number of priorities; 1 is the most urgent.",
        ),
        Key::new(
            "default_priority",
            Kind::Integer(1, 16),
            "2",
            "Priority of a call that names none; never above `priority_levels`.",
        ),
        Key::new(
            "timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"30s\"",
            "Deadline of a call; the call's own wins when it is sooner.",
        ),
        Key::new(
            "max_concurrency",
            Kind::IntegerOrAuto(1, 65_536),
            "\"auto\"",
            "Batches in flight per instance.",
        ),
        Key::new(
            "stream_heartbeat",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"15s\"",
            "How long a stream of events may be silent before the caller gets a comment, so that nothing in between cuts it; 0s: no comments.",
        ),
        Key::new(
            "stream_idle_timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"5m\"",
            "How long an instance may be silent in the middle of a reply that is relayed.",
        ),
        Key::new(
            "stream_usage",
            Kind::Boolean,
            "false",
            "Whether instances are asked for the usage of streams whose callers did not ask, to count their tokens; callers do not see it.",
        ),
    ],
    tables: &[&HEALTH, &BREAKER, &RETRY, &HEDGE, &CONTROLLED_DELAY, &ROUTING],
    unsupported: &["discovery", "cache"],
};

static HEALTH: Table = Table {
    name: "health",
    place: "in [model.health]",
    path: "model.health",
    list: false,
    about: "How the instances are probed.",
    keys: &[
        Key::new(
            "interval",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"2s\"",
            "Time between two probes of an instance.",
        ),
        Key::new(
            "timeout",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"1s\"",
            "Time after which a probe has failed; never above `interval`.",
        ),
        Key::new(
            "unhealthy_after",
            Kind::Integer(1, 1_000),
            "2",
            "Failed probes in a row that make an instance unhealthy.",
        ),
        Key::new(
            "healthy_after",
            Kind::Integer(1, 1_000),
            "1",
            "Good probes in a row that make it healthy again.",
        ),
        Key::new(
            "loading_hold",
            Kind::Duration(Duration::ZERO, DURATION_MAX),
            "\"30s\"",
            "How long calls wait, within their deadlines, for an instance that answers that it is not ready yet, where no other is up.",
        ),
        Key::absent(
            "path",
            Kind::Text,
            "Path of the probe, for protocols over HTTP; without it the protocol's own.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static BREAKER: Table = Table {
    name: "breaker",
    place: "in [model.breaker]",
    path: "model.breaker",
    list: false,
    about: "When an instance is left alone after faults, and how it is tried again.",
    keys: &[
        Key::new(
            "window",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"10s\"",
            "Time over which the ratio of faults is taken.",
        ),
        Key::new(
            "minimum_volume",
            Kind::Integer(1, COUNT_MAX),
            "5",
            "Batches in the window below which the ratio says nothing.",
        ),
        Key::new(
            "failure_ratio",
            Kind::Ratio,
            "0.5",
            "Ratio of failed batches that opens the breaker.",
        ),
        Key::new(
            "consecutive_failures",
            Kind::Integer(1, COUNT_MAX),
            "3",
            "Failed batches in a row that open it, whatever the ratio.",
        ),
        Key::new(
            "open_for",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"250ms\"",
            "How long it stays open at least; a quarter of the time that the instance has been out, if longer.",
        ),
        Key::new(
            "max_open_for",
            Kind::Duration(DURATION_MIN, DURATION_MAX),
            "\"10s\"",
            "The longest that it stays open; never below `open_for`.",
        ),
        Key::new(
            "half_open_probes",
            Kind::Integer(1, 1_000),
            "1",
            "Batches admitted at once while it is half open.",
        ),
        Key::new(
            "panic_threshold",
            Kind::Ratio,
            "0.5",
            "Where fewer of the instances than this ratio are let through, those that are out are probed every `open_for`, however long they have been out.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static RETRY: Table = Table {
    name: "retry",
    place: "in [model.retry]",
    path: "model.retry",
    list: false,
    about: "Whether a batch that an instance failed is sent to another.",
    keys: &[
        Key::new(
            "attempts",
            Kind::Integer(1, 10),
            "2",
            "Times a batch is sent in all; 1: never again.",
        ),
        Key::new(
            "idempotent",
            Kind::Boolean,
            "true",
            "Whether a batch may be sent again after an instance may have begun it.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static ROUTING: Table = Table {
    name: "routing",
    place: "in [model.routing]",
    path: "model.routing",
    list: false,
    about: "Which models answer chats and completions in its place.",
    keys: &[
        Key::absent(
            "fallback",
            Kind::TextList,
            "Models that are asked in turn where this one has no room, or no instance that serves.",
        ),
        Key::absent(
            "canary",
            Kind::Text,
            "A model that is asked first for a share of the callers; where it cannot serve, this one does.",
        ),
        Key::new(
            "canary_share",
            Kind::Ratio,
            "0.05",
            "That share; calls that name the same `x-session-id` are all in it, or none.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static CONTROLLED_DELAY: Table = Table {
    name: "controlled_delay",
    place: "in [model.controlled_delay]",
    path: "model.controlled_delay",
    list: false,
    about: "Whether calls are refused at once that would wait too long in a queue which has been standing for a while.",
    keys: &[
        Key::new(
            "enabled",
            Kind::Boolean,
            "false",
            "Whether they are; else they wait as long as their deadlines and the size of the queue allow.",
        ),
        Key::new(
            "target",
            Kind::DurationOrAuto(DURATION_MIN, DURATION_MAX),
            "\"auto\"",
            "How long is too long; auto: longer than two of the largest batches take.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};

static HEDGE: Table = Table {
    name: "hedge",
    place: "in [model.hedge]",
    path: "model.hedge",
    list: false,
    about: "Whether a batch that is slow to come back is sent to a second, idle instance as well.",
    keys: &[
        Key::new(
            "enabled",
            Kind::Boolean,
            "false",
            "Whether it is; the first answer counts. Needs a model that may do the same work twice.",
        ),
        Key::new(
            "delay",
            Kind::DurationOrAuto(DURATION_MIN, DURATION_MAX),
            "\"auto\"",
            "After how long; auto: once it takes longer than 95 % of batches.",
        ),
    ],
    tables: &[],
    unsupported: &[],
};
