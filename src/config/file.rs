//! The configuration as written: what the file says, key by key, with the line of each.

use std::net::SocketAddr;
use std::time::Duration;

use super::ModelLines;
use super::keys;
use super::read::TableReader;
use super::written::{AutoOr, Reading, Written, parse_toml};

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) server: ServerWritten,
    pub(super) telemetry: TelemetryWritten,
    pub(super) batch_api: Option<BatchApiWritten>,
    /// `None` when `model` is there, but is no list of tables.
    pub(super) models: Option<Vec<ModelWritten>>,
}

/// `[server]`
#[derive(Debug, Default)]
pub(super) struct ServerWritten {
    pub(super) http: Written<SocketAddr>,
    pub(super) grpc: Written<SocketAddr>,
    pub(super) admin: Written<SocketAddr>,
    pub(super) shutdown_delay: Written<Duration>,
    pub(super) shutdown_grace: Written<Duration>,
    pub(super) max_request_bytes: Written<u64>,
    pub(super) max_connections: Written<u32>,
    pub(super) max_buffered_bytes: Written<u64>,
    pub(super) read_timeout: Written<Duration>,
    pub(super) write_timeout: Written<Duration>,
    pub(super) trust_tenant_header: Written<bool>,
    pub(super) worker_threads: Written<AutoOr<u32>>,
}

/// `[telemetry]`
#[derive(Debug, Default)]
pub(super) struct TelemetryWritten {
    pub(super) otlp_endpoint: Written<String>,
    pub(super) sample_ratio: Written<f64>,
}

/// `[batch_api]`
#[derive(Debug, Default)]
pub(super) struct BatchApiWritten {
    pub(super) directory: Written<String>,
    pub(super) max_file_bytes: Written<u64>,
    pub(super) max_stored_bytes: Written<u64>,
    pub(super) max_lines: Written<u32>,
    pub(super) max_concurrent_lines: Written<u32>,
    pub(super) retention: Written<Duration>,
}

/// `[[model]]`
#[derive(Debug)]
pub(super) struct ModelWritten {
    /// Line of its header.
    pub(super) line: usize,
    pub(super) name: Written<String>,
    pub(super) protocol: Written<String>,
    pub(super) instances: Written<Vec<(String, usize)>>,
    pub(super) upstream_name: Written<String>,
    pub(super) max_batch_size: Written<u32>,
    pub(super) max_queue_delay: Written<AutoOr<Duration>>,
    pub(super) max_batch_bytes: Written<u64>,
    pub(super) max_batch_tokens: Written<u32>,
    pub(super) slo: Written<Duration>,
    pub(super) max_queue_size: Written<u32>,
    pub(super) max_queue_bytes: Written<u64>,
    pub(super) priority_levels: Written<u8>,
    pub(super) default_priority: Written<u8>,
    pub(super) timeout: Written<Duration>,
    pub(super) max_concurrency: Written<AutoOr<u32>>,
    pub(super) stream_heartbeat: Written<Duration>,
    pub(super) stream_idle_timeout: Written<Duration>,
    pub(super) stream_usage: Written<bool>,
    pub(super) health: HealthWritten,
    pub(super) breaker: BreakerWritten,
    pub(super) retry: RetryWritten,
    pub(super) hedge: HedgeWritten,
    pub(super) routing: RoutingWritten,
    pub(super) controlled_delay: ControlledDelayWritten,
}

impl ModelWritten {
    /// Where it and its instances stand.
    pub(super) fn lines(&self) -> ModelLines {
        let instances = self.instances.value().map(Vec::as_slice).unwrap_or_default();
        let instances = instances.iter().map(|(_, line)| *line).collect();
        ModelLines { model: self.line, instances }
    }
}

/// `[model.health]`
#[derive(Debug, Default)]
pub(super) struct HealthWritten {
    pub(super) interval: Written<Duration>,
    pub(super) timeout: Written<Duration>,
    pub(super) unhealthy_after: Written<u32>,
    pub(super) healthy_after: Written<u32>,
    pub(super) loading_hold: Written<Duration>,
    pub(super) path: Written<String>,
}

/// `[model.breaker]`
#[derive(Debug, Default)]
pub(super) struct BreakerWritten {
    pub(super) window: Written<Duration>,
    pub(super) minimum_volume: Written<u32>,
    pub(super) failure_ratio: Written<f64>,
    pub(super) consecutive_failures: Written<u32>,
    pub(super) open_for: Written<Duration>,
    pub(super) max_open_for: Written<Duration>,
    pub(super) half_open_probes: Written<u32>,
    pub(super) panic_threshold: Written<f64>,
}

/// `[model.retry]`
#[derive(Debug, Default)]
pub(super) struct RetryWritten {
    pub(super) attempts: Written<u32>,
    pub(super) idempotent: Written<bool>,
}

/// `[model.controlled_delay]`
#[derive(Debug, Default)]
pub(super) struct ControlledDelayWritten {
    pub(super) enabled: Written<bool>,
    pub(super) target: Written<AutoOr<Duration>>,
}

/// `[model.routing]`
#[derive(Debug, Default)]
pub(super) struct RoutingWritten {
    pub(super) fallback: Written<Vec<(String, usize)>>,
    pub(super) canary: Written<String>,
    pub(super) canary_share: Written<f64>,
}

/// `[model.hedge]`
#[derive(Debug, Default)]
pub(super) struct HedgeWritten {
    pub(super) enabled: Written<bool>,
    pub(super) delay: Written<AutoOr<Duration>>,
}

/// Reads the text of a file; what cannot be read is reported to `reading`. `None`: not even TOML.
pub(super) fn read_file(text: &str, reading: &mut Reading) -> Option<File> {
    let tree = parse_toml(text, reading)?;
    let mut root = TableReader::open(&keys::ROOT, tree.get_ref(), 1, reading);
    let server = root.table("server").map(read_server).unwrap_or_default();
    let telemetry = root.table("telemetry").map(read_telemetry).unwrap_or_default();
    let batch_api = root.table("batch_api").map(read_batch_api);
    let models = root.list("model", read_model);
    Some(File { server, telemetry, batch_api, models })
}

fn read_server(mut table: TableReader<'_, '_>) -> ServerWritten {
    ServerWritten {
        http: table.address("http"),
        grpc: table.address("grpc"),
        admin: table.address("admin"),
        shutdown_delay: table.duration("shutdown_delay"),
        shutdown_grace: table.duration("shutdown_grace"),
        max_request_bytes: table.size("max_request_bytes"),
        max_connections: table.integer("max_connections"),
        max_buffered_bytes: table.size("max_buffered_bytes"),
        read_timeout: table.duration("read_timeout"),
        write_timeout: table.duration("write_timeout"),
        trust_tenant_header: table.boolean("trust_tenant_header"),
        worker_threads: table.integer_or_auto("worker_threads"),
    }
}

fn read_telemetry(mut table: TableReader<'_, '_>) -> TelemetryWritten {
    TelemetryWritten {
        otlp_endpoint: table.text("otlp_endpoint"),
        sample_ratio: table.ratio("sample_ratio"),
    }
}

fn read_batch_api(mut table: TableReader<'_, '_>) -> BatchApiWritten {
    BatchApiWritten {
        directory: table.text("directory"),
        max_file_bytes: table.size("max_file_bytes"),
        max_stored_bytes: table.size("max_stored_bytes"),
        max_lines: table.integer("max_lines"),
        max_concurrent_lines: table.integer("max_concurrent_lines"),
        retention: table.duration("retention"),
    }
}

fn read_model(mut table: TableReader<'_, '_>) -> ModelWritten {
    ModelWritten {
        line: table.line,
        name: table.text("name"),
        protocol: table.choice("protocol"),
        instances: table.text_list("instances"),
        upstream_name: table.text("upstream_name"),
        max_batch_size: table.integer("max_batch_size"),
        max_batch_bytes: table.size("max_batch_bytes"),
        max_batch_tokens: table.integer("max_batch_tokens"),
        max_queue_delay: table.duration_or_auto("max_queue_delay"),
        slo: table.duration("slo"),
        max_queue_size: table.integer("max_queue_size"),
        max_queue_bytes: table.size("max_queue_bytes"),
        priority_levels: table.integer("priority_levels"),
        default_priority: table.integer("default_priority"),
        timeout: table.duration("timeout"),
        max_concurrency: table.integer_or_auto("max_concurrency"),
        stream_heartbeat: table.duration("stream_heartbeat"),
        stream_idle_timeout: table.duration("stream_idle_timeout"),
        stream_usage: table.boolean("stream_usage"),
        health: table.table("health").map(read_health).unwrap_or_default(),
        breaker: table.table("breaker").map(read_breaker).unwrap_or_default(),
        retry: table.table("retry").map(read_retry).unwrap_or_default(),
        hedge: table.table("hedge").map(read_hedge).unwrap_or_default(),
        routing: table.table("routing").map(read_routing).unwrap_or_default(),
        controlled_delay: table
            .table("controlled_delay")
            .map(read_controlled_delay)
            .unwrap_or_default(),
    }
}

fn read_health(mut table: TableReader<'_, '_>) -> HealthWritten {
    HealthWritten {
        interval: table.duration("interval"),
        timeout: table.duration("timeout"),
        unhealthy_after: table.integer("unhealthy_after"),
        healthy_after: table.integer("healthy_after"),
        loading_hold: table.duration("loading_hold"),
        path: table.text("path"),
    }
}

fn read_breaker(mut table: TableReader<'_, '_>) -> BreakerWritten {
    BreakerWritten {
        window: table.duration("window"),
        minimum_volume: table.integer("minimum_volume"),
        failure_ratio: table.ratio("failure_ratio"),
        consecutive_failures: table.integer("consecutive_failures"),
        open_for: table.duration("open_for"),
        max_open_for: table.duration("max_open_for"),
        half_open_probes: table.integer("half_open_probes"),
        panic_threshold: table.ratio("panic_threshold"),
    }
}

fn read_retry(mut table: TableReader<'_, '_>) -> RetryWritten {
    RetryWritten { attempts: table.integer("attempts"), idempotent: table.boolean("idempotent") }
}

fn read_routing(mut table: TableReader<'_, '_>) -> RoutingWritten {
    RoutingWritten {
        fallback: table.text_list("fallback"),
        canary: table.text("canary"),
        canary_share: table.ratio("canary_share"),
    }
}

fn read_controlled_delay(mut table: TableReader<'_, '_>) -> ControlledDelayWritten {
    ControlledDelayWritten {
        enabled: table.boolean("enabled"),
        target: table.duration_or_auto("target"),
    }
}

fn read_hedge(mut table: TableReader<'_, '_>) -> HedgeWritten {
    HedgeWritten { enabled: table.boolean("enabled"), delay: table.duration_or_auto("delay") }
}
