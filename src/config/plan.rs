//! The plan: the configuration as meant.
//!
//! Every default is filled in, every unit resolved, every rule checked. Nothing else of the program
//! sees the file. The defaults stand here once, as constants beside the fields that they fill.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use super::address::{InstanceAddress, InstanceUrl};

/// A validated configuration: what to listen on, and which models to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The listeners and their limits.
    pub server: ServerPlan,
    /// The Batch API, where it is switched on.
    pub batch_api: Option<BatchApiPlan>,
    /// Where spans are sent, and how many.
    pub telemetry: TelemetryPlan,
    /// The models in the order of the file: at least one, no name twice.
    pub models: Vec<ModelPlan>,
}

/// Where spans are sent, and how many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryPlan {
    /// URL of a collector of OpenTelemetry that takes OTLP, over HTTP on port 4318 and else by gRPC;
    /// `None`: as the environment says.
    pub otlp_endpoint: Option<String>,
    /// Of the traces that begin here, the share that is recorded; `None`: as the environment says, else all.
    pub sample_ratio: Option<f64>,
}

/// The listeners, and the limits that all models share.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPlan {
    /// Listens for KServe v2 and v1 over HTTP, and OpenAI. Port 0 lets the system choose.
    pub http: SocketAddr,
    /// Listens for KServe v2 over gRPC.
    pub grpc: SocketAddr,
    /// Listens for metrics, health, status and control.
    pub admin: SocketAddr,
    /// How long new calls are still accepted once shutdown began and health checks say so: as long as
    /// load balancers take to notice.
    pub shutdown_delay: Duration,
    /// How long accepted calls may take to finish once shutdown began.
    pub shutdown_grace: Duration,
    /// Bytes of the largest request body that is read.
    pub max_request_bytes: u64,
    /// Connections open at once, over the listeners for calls.
    pub max_connections: u32,
    /// Bytes of requests in memory at once; at least `max_request_bytes`.
    pub max_buffered_bytes: u64,
    /// How long a caller may send nothing in the middle of a request.
    pub read_timeout: Duration,
    /// How long a caller may take nothing of an answer that is there.
    pub write_timeout: Duration,
    /// Whether header `x-tenant-id` says who a call is from.
    pub trust_tenant_header: bool,
    /// Threads that serve calls; `None`: one less than the processors, at least 1.
    pub worker_threads: Option<u32>,
}

impl Default for ServerPlan {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            http: loopback(8000),
            grpc: loopback(8001),
            admin: loopback(8002),
            shutdown_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(30),
            max_request_bytes: 64 << 20,
            max_connections: 16_384,
            max_buffered_bytes: 1 << 30,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            trust_tenant_header: false,
            worker_threads: None,
        }
    }
}

/// OpenAI's Batch API: files of requests that are answered when there is nothing more urgent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchApiPlan {
    /// Where files and batches are kept.
    pub directory: PathBuf,
    /// Bytes of the largest file that is taken.
    pub max_file_bytes: u64,
    /// Bytes of all files together; at least `max_file_bytes`.
    pub max_stored_bytes: u64,
    /// Requests in one batch.
    pub max_lines: u32,
    /// Requests of batches that wait or run at once for one model.
    pub max_concurrent_lines: u32,
    /// How long files are kept, and batches after their end.
    pub retention: Duration,
    /// How long a batch may take: 24 hours, for the API knows no other time.
    pub completion_window: Duration,
}

impl BatchApiPlan {
    /// The defaults, with everything in `directory`.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            max_file_bytes: 200_000_000,
            max_stored_bytes: 20 << 30,
            max_lines: 50_000,
            max_concurrent_lines: 256,
            retention: Duration::from_secs(720 * 3600),
            completion_window: Duration::from_secs(24 * 3600),
        }
    }
}

/// What the instances of a model speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// KServe v2 (Open Inference Protocol) over gRPC: `kserve-grpc`.
    KserveGrpc,
    /// KServe v2 over HTTP: `kserve-http`.
    KserveHttp,
    /// KServe v1, the REST interface of TensorFlow Serving: `kserve-v1`.
    KserveV1,
    /// OpenAI's HTTP interface: `openai`.
    OpenAi,
    /// None: the model runs inside this process: `embedded`.
    Embedded,
}

impl Protocol {
    /// Every protocol, in the order of the documentation.
    pub const ALL: [Self; 5] =
        [Self::KserveGrpc, Self::KserveHttp, Self::KserveV1, Self::OpenAi, Self::Embedded];

    /// Its name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KserveGrpc => "kserve-grpc",
            Self::KserveHttp => "kserve-http",
            Self::KserveV1 => "kserve-v1",
            Self::OpenAi => "openai",
            Self::Embedded => "embedded",
        }
    }

    /// Whether its instances are reached with HTTP requests, so that they have paths.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::KserveHttp | Self::KserveV1 | Self::OpenAi)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A model that runs inside this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EmbeddedKind {
    /// Recognises handwritten digits: `digits`.
    Digits,
    /// Turns text into vectors: `embedding`.
    Embedding,
    /// Answers with what it was sent: `echo`.
    Echo,
    /// Runs an ONNX file: `onnx:PATH`.
    Onnx {
        /// The file; a relative path of the configuration was joined to the folder of its file.
        path: PathBuf,
    },
}

impl fmt::Display for EmbeddedKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digits => formatter.write_str("digits"),
            Self::Embedding => formatter.write_str("embedding"),
            Self::Echo => formatter.write_str("echo"),
            Self::Onnx { path } => write!(formatter, "onnx:{}", path.display()),
        }
    }
}

/// One model: its instances and how its calls are queued, batched and protected.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPlan {
    /// The name that callers use.
    pub name: String,
    /// What its instances speak.
    pub protocol: Protocol,
    /// Its instances: at least one, no address twice.
    pub instances: Vec<InstancePlan>,
    /// The model's name on its instances.
    pub upstream_name: String,
    /// What runs, when the protocol is [`Protocol::Embedded`]; `None` otherwise.
    pub embedded: Option<EmbeddedKind>,
    /// Whether calls may share a batch. `false` (written `max_batch_size = 0`, as in Triton) means
    /// that the first dimension of a tensor is not a batch axis; `max_batch_size` is then 1.
    pub batching: bool,
    /// Rows in one batch; `None`: asked of the instance, else learned. Never 0.
    pub max_batch_size: Option<u32>,
    /// Bytes in one batch; `None`: as many as its rows have.
    pub max_batch_bytes: Option<u64>,
    /// Tokens in one batch of texts, padded to the longest; `None`: as many as its rows have.
    pub max_batch_tokens: Option<u32>,
    /// How long a call may wait for company; `None`: decided from the load.
    pub max_queue_delay: Option<Duration>,
    /// Latency to keep at the 99th percentile.
    pub slo: Option<Duration>,
    /// Rows that may wait.
    pub max_queue_size: u32,
    /// Bytes that may wait.
    pub max_queue_bytes: u64,
    /// Number of priorities; 1 is the most urgent.
    pub priority_levels: u8,
    /// Priority of a call that names none: 1 to `priority_levels`.
    pub default_priority: u8,
    /// Deadline of a call that names none or a later one.
    pub timeout: Duration,
    /// Batches in flight per instance; `None`: found from the load.
    pub max_concurrency: Option<u32>,
    /// How instances are probed.
    pub health: HealthPlan,
    /// When an instance is left alone.
    pub breaker: BreakerPlan,
    /// Whether a batch is sent again.
    pub retry: RetryPlan,
    /// Whether a batch that is slow to come back is sent to a second instance as well.
    pub hedge: HedgePlan,
    /// Whether who would wait too long is refused while the queue stands.
    pub controlled_delay: ControlledDelayPlan,
    /// Which models answer in its place.
    pub routing: RoutingPlan,
    /// How streams of events are relayed.
    pub stream: StreamPlan,
}

impl ModelPlan {
    /// Rows that may wait, by default.
    pub const MAX_QUEUE_SIZE: u32 = 4_096;
    /// Bytes that may wait, by default.
    pub const MAX_QUEUE_BYTES: u64 = 256 << 20;
    /// Number of priorities, by default.
    pub const PRIORITY_LEVELS: u8 = 3;
    /// Priority of a call that names none, by default (or the last level, when there are fewer).
    pub const DEFAULT_PRIORITY: u8 = 2;
    /// Deadline of a call that names none, by default.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
}

/// One instance of a model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstancePlan {
    /// Its label in metrics and status: `host:port` with the path prefix, or `embedded/0`.
    pub name: String,
    /// Where it is reached.
    pub address: InstanceAddress,
}

/// How the instances of a model are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPlan {
    /// Time between two probes of an instance.
    pub interval: Duration,
    /// Time after which a probe counts as failed; at most `interval`.
    pub timeout: Duration,
    /// Failed probes in a row that make an instance unhealthy.
    pub unhealthy_after: u32,
    /// Good probes in a row that make it healthy again.
    pub healthy_after: u32,
    /// For how long calls wait for an instance that says that it loads the model.
    pub loading_hold: Duration,
    /// Path of the probe, for protocols over HTTP; `None`: the protocol's own readiness path.
    pub path: Option<String>,
}

impl Default for HealthPlan {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy_after: 2,
            healthy_after: 1,
            loading_hold: Duration::from_secs(30),
            path: None,
        }
    }
}

/// When an instance is left alone after faults, and how it is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPlan {
    /// Time over which the ratio of faults is taken.
    pub window: Duration,
    /// Batches in the window below which the ratio says nothing.
    pub minimum_volume: u32,
    /// Ratio of failed batches that opens the breaker; above 0, at most 1.
    pub failure_ratio: f64,
    /// Failed batches in a row that open it, whatever the ratio.
    pub consecutive_failures: u32,
    /// How long it stays open at least; a quarter of the time that the instance has been out, where
    /// that is longer.
    pub open_for: Duration,
    /// The longest that it stays open; at least `open_for`.
    pub max_open_for: Duration,
    /// Batches admitted at once while half open.
    pub half_open_probes: u32,
    /// Where fewer than this share of the instances are let through, those that are out are probed
    /// every `open_for`; above 0, at most 1.
    pub panic_threshold: f64,
}

impl Default for BreakerPlan {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            minimum_volume: 5,
            failure_ratio: 0.5,
            consecutive_failures: 3,
            open_for: Duration::from_millis(250),
            max_open_for: Duration::from_secs(10),
            half_open_probes: 1,
            panic_threshold: 0.5,
        }
    }
}

/// Whether a batch that an instance failed is sent to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    /// Times that a batch is sent in all; 1: never again. An instance that is not even reached does
    /// not count.
    pub attempts: u32,
    /// Whether a batch may be sent again after an instance may have begun it.
    pub idempotent: bool,
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self { attempts: 2, idempotent: true }
    }
}

/// Whether a batch that is slow to come back is sent to a second instance as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HedgePlan {
    /// Whether it is.
    pub enabled: bool,
    /// After how long; `None`: once it takes longer than 95 % of batches.
    pub delay: Option<Duration>,
}

/// Which models answer requests for text in place of another.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingPlan {
    /// Those that are asked in turn where it has no room, or nobody who could serve.
    pub fallback: Vec<String>,
    /// The one that is asked before it for a share of the callers.
    pub canary: Option<String>,
    /// That share: above 0, at most 1.
    pub canary_share: f64,
}

impl Default for RoutingPlan {
    fn default() -> Self {
        Self { fallback: Vec::new(), canary: None, canary_share: 0.05 }
    }
}

/// Whether who would wait too long is refused while the queue stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlledDelayPlan {
    /// Whether it is so.
    pub enabled: bool,
    /// How long is too long; `None`: longer than two of the largest batches take.
    pub target: Option<Duration>,
}

/// How streams of events are relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPlan {
    /// After how long without an event the caller gets a comment; `None`: never.
    pub heartbeat: Option<Duration>,
    /// After how long without a byte the instance is given up.
    pub idle_timeout: Duration,
    /// Whether usage is asked for, to be counted, where the caller does not want it.
    pub usage: bool,
}

impl Default for StreamPlan {
    fn default() -> Self {
        Self {
            heartbeat: Some(Duration::from_secs(15)),
            idle_timeout: Duration::from_secs(300),
            usage: false,
        }
    }
}
