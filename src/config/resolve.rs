//! From the file as written to the plan as meant: defaults, and the rules between keys.
//!
//! It always builds a whole plan, also from a file with problems, so that every rule gets its say in one
//! run; the caller must not use the plan when anything was reported.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use super::explain::{Problem, quote};
use super::file::{
    BatchApiWritten, BreakerWritten, File, HealthWritten, ModelWritten, ServerWritten,
    TelemetryWritten,
};
use super::instances::resolve_instances;
use super::plan::{
    BatchApiPlan, BreakerPlan, ControlledDelayPlan, HealthPlan, HedgePlan, InstanceUrl, ModelPlan,
    Plan, Protocol, RetryPlan, ServerPlan, StreamPlan, TelemetryPlan,
};
use super::routing::{check_routing, resolve_routing};
use super::units::{format_duration, format_size};
use super::written::{AutoOr, Reading, Written};

/// The most models in one file.
const MODELS_MAX: usize = 1_024;
/// The longest model name, in bytes.
const NAME_LENGTH_MAX: usize = 256;

/// How the place of a model's own keys reads in a message.
pub(super) const IN_MODEL: &str = "in [[model]]";

/// Builds the plan; what breaks a rule is reported to `reading`. `base` is the folder of the file.
pub(super) fn resolve(file: &File, base: Option<&Path>, reading: &mut Reading) -> Plan {
    let server = resolve_server(&file.server, reading);
    let telemetry = resolve_telemetry(&file.telemetry, reading);
    let batch_api = file.batch_api.as_ref().map(|it| resolve_batch_api(it, base, reading));
    let written = file.models.as_deref().unwrap_or_default();
    if written.is_empty() && file.models.is_some() {
        let what = "a [[model]]".to_owned();
        let expected = "a [[model]] with `name`, `protocol` and `instances`".to_owned();
        reading.report(Some(1), Problem::Missing { what, place: "at the top level", expected });
    }
    if let Some(beyond) = written.get(MODELS_MAX) {
        let found = written.len().to_string();
        report_range(reading, beyond.line, "model", "at the top level", found, MODELS_MAX);
    }
    check_names(written, reading);
    check_routing(written, reading);
    let models = written.iter().map(|model| resolve_model(model, base, reading)).collect();
    Plan { server, telemetry, batch_api, models }
}

fn resolve_server(written: &ServerWritten, reading: &mut Reading) -> ServerPlan {
    let default = ServerPlan::default();
    let max_request_bytes = written.max_request_bytes.or(default.max_request_bytes);
    let plan = ServerPlan {
        http: written.http.or(default.http),
        grpc: written.grpc.or(default.grpc),
        admin: written.admin.or(default.admin),
        shutdown_delay: written.shutdown_delay.or(default.shutdown_delay),
        shutdown_grace: written.shutdown_grace.or(default.shutdown_grace),
        max_request_bytes,
        max_connections: written.max_connections.or(default.max_connections),
        max_buffered_bytes: written
            .max_buffered_bytes
            .or(default.max_buffered_bytes.max(max_request_bytes)),
        read_timeout: written.read_timeout.or(default.read_timeout),
        write_timeout: written.write_timeout.or(default.write_timeout),
        trust_tenant_header: written.trust_tenant_header.or(default.trust_tenant_header),
        worker_threads: auto_is_none(&written.worker_threads),
    };
    if let Written::Given(buffered, line) = written.max_buffered_bytes
        && buffered < max_request_bytes
        && !written.max_request_bytes.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "max_buffered_bytes",
            place: "in [server]",
            found: quote(&format_size(buffered)),
            conflict: format!("below `max_request_bytes` ({})", format_size(max_request_bytes)),
            expected: "the largest request could never be read; raise it".into(),
        };
        reading.report(Some(line), problem);
    }
    let lines = [written.http.line(), written.grpc.line(), written.admin.line()];
    if ![&written.http, &written.grpc, &written.admin].iter().any(|it| it.is_malformed()) {
        for (index, problem) in listener_conflicts(&plan) {
            let line = lines.get(index).copied().flatten();
            reading.report(line.or_else(|| lines.iter().flatten().next().copied()), problem);
        }
    }
    plan
}

fn resolve_telemetry(written: &TelemetryWritten, reading: &mut Reading) -> TelemetryPlan {
    if let Written::Given(endpoint, line) = &written.otlp_endpoint
        && let Err(error) = InstanceUrl::parse(endpoint, Protocol::OpenAi)
    {
        let problem = Problem::BadValue {
            key: "otlp_endpoint",
            place: "in [telemetry]",
            found: quote(endpoint),
            reason: error.to_string(),
            expected: "a URL such as http://127.0.0.1:4317".to_owned(),
        };
        reading.report(Some(*line), problem);
    }
    TelemetryPlan {
        otlp_endpoint: written.otlp_endpoint.value().cloned(),
        sample_ratio: written.sample_ratio.value().copied(),
    }
}

fn resolve_batch_api(
    written: &BatchApiWritten,
    base: Option<&Path>,
    reading: &mut Reading,
) -> BatchApiPlan {
    let directory = Path::new(written.directory.value().map_or("", String::as_str));
    let directory = base.map_or_else(|| directory.to_owned(), |base| base.join(directory));
    let default = BatchApiPlan::in_directory(directory);
    let max_file_bytes = written.max_file_bytes.or(default.max_file_bytes);
    if let Written::Given(stored, line) = written.max_stored_bytes
        && stored < max_file_bytes
        && !written.max_file_bytes.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "max_stored_bytes",
            place: "in [batch_api]",
            found: quote(&format_size(stored)),
            conflict: format!("below `max_file_bytes` ({})", format_size(max_file_bytes)),
            expected: "the largest file could never be kept; raise it".into(),
        };
        reading.report(Some(line), problem);
    }
    BatchApiPlan {
        max_file_bytes,
        max_stored_bytes: written.max_stored_bytes.or(default.max_stored_bytes.max(max_file_bytes)),
        max_lines: written.max_lines.or(default.max_lines),
        max_concurrent_lines: written.max_concurrent_lines.or(default.max_concurrent_lines),
        retention: written.retention.or(default.retention),
        ..default
    }
}

/// Listeners that would take each other's port, each as the index (http, grpc, admin) of the later one.
pub(super) fn listener_conflicts(server: &ServerPlan) -> Vec<(usize, Problem)> {
    let listeners = [("http", server.http), ("grpc", server.grpc), ("admin", server.admin)];
    let mut conflicts = Vec::new();
    for (index, (key, address)) in listeners.into_iter().enumerate() {
        let earlier = listeners.iter().take(index).find(|(_, other)| overlap(*other, address));
        if let Some((other, _)) = earlier {
            let problem = Problem::Conflict {
                key,
                place: "in [server]",
                found: quote(&address.to_string()),
                conflict: format!("the port of `{other}`"),
                expected: "give each listener its own port".into(),
            };
            conflicts.push((index, problem));
        }
    }
    conflicts
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_host
}

fn check_names(models: &[ModelWritten], reading: &mut Reading) {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for model in models {
        let Written::Given(name, line) = &model.name else { continue };
        if let Some(reason) = bad_name(name) {
            let (found, expected) = (quote(name), "a name such as \"resnet50\"".to_owned());
            let problem =
                Problem::BadValue { key: "name", place: IN_MODEL, found, reason, expected };
            reading.report(Some(*line), problem);
        }
        match lines.get(name.as_str()) {
            None => {
                lines.insert(name, *line);
            }
            Some(first_line) => {
                let problem = Problem::Duplicate {
                    what: "name",
                    found: quote(name),
                    place: IN_MODEL,
                    first_line: *first_line,
                    expected: "give each model its own name, or list all instances in one".into(),
                };
                reading.report(Some(*line), problem);
            }
        }
    }
}

fn bad_name(name: &str) -> Option<String> {
    if name.len() > NAME_LENGTH_MAX {
        Some(format!("it is longer than {NAME_LENGTH_MAX} bytes"))
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Some("it has blanks or control characters".into())
    } else {
        None
    }
}

fn resolve_model(written: &ModelWritten, base: Option<&Path>, reading: &mut Reading) -> ModelPlan {
    let protocol = written
        .protocol
        .value()
        .and_then(|name| Protocol::ALL.into_iter().find(|protocol| protocol.name() == name));
    let (instances, embedded) = match (protocol, &written.instances) {
        (Some(protocol), Written::Given(list, line)) => {
            resolve_instances(protocol, list, *line, base, reading)
        }
        _ => (Vec::new(), None),
    };
    let protocol = protocol.unwrap_or(Protocol::Embedded);
    let name = written.name.value().cloned().unwrap_or_default();
    let batch_size = written.max_batch_size.value().copied();
    let levels = written.priority_levels.or(ModelPlan::PRIORITY_LEVELS);
    check_times_and_priorities(written, reading);
    ModelPlan {
        protocol,
        instances,
        embedded,
        upstream_name: written.upstream_name.or(name.clone()),
        name,
        batching: batch_size != Some(0),
        max_batch_size: batch_size.map(|rows| rows.max(1)),
        max_batch_bytes: written.max_batch_bytes.value().copied(),
        max_batch_tokens: written.max_batch_tokens.value().copied(),
        max_queue_delay: auto_is_none(&written.max_queue_delay),
        slo: written.slo.value().copied(),
        max_queue_size: written.max_queue_size.or(ModelPlan::MAX_QUEUE_SIZE),
        max_queue_bytes: written.max_queue_bytes.or(ModelPlan::MAX_QUEUE_BYTES),
        priority_levels: levels,
        default_priority: written.default_priority.or(ModelPlan::DEFAULT_PRIORITY.min(levels)),
        timeout: written.timeout.or(ModelPlan::TIMEOUT),
        max_concurrency: auto_is_none(&written.max_concurrency),
        health: resolve_health(&written.health, protocol, reading),
        breaker: resolve_breaker(&written.breaker, reading),
        retry: RetryPlan {
            attempts: written.retry.attempts.or(RetryPlan::default().attempts),
            idempotent: written.retry.idempotent.or(RetryPlan::default().idempotent),
        },
        hedge: HedgePlan {
            enabled: written.hedge.enabled.or(HedgePlan::default().enabled),
            delay: auto_is_none(&written.hedge.delay),
        },
        controlled_delay: ControlledDelayPlan {
            enabled: written.controlled_delay.enabled.or(ControlledDelayPlan::default().enabled),
            target: auto_is_none(&written.controlled_delay.target),
        },
        routing: resolve_routing(&written.routing),
        stream: resolve_stream(written),
    }
}

fn resolve_stream(written: &ModelWritten) -> StreamPlan {
    let default = StreamPlan::default();
    let heartbeat = written.stream_heartbeat.value().copied();
    StreamPlan {
        heartbeat: heartbeat.map_or(default.heartbeat, |it| (!it.is_zero()).then_some(it)),
        idle_timeout: written.stream_idle_timeout.or(default.idle_timeout),
        usage: written.stream_usage.or(default.usage),
    }
}

fn auto_is_none<T: Copy>(written: &Written<AutoOr<T>>) -> Option<T> {
    match written.value() {
        Some(AutoOr::Value(value)) => Some(*value),
        _ => None,
    }
}

fn check_times_and_priorities(written: &ModelWritten, reading: &mut Reading) {
    let levels = written.priority_levels.or(ModelPlan::PRIORITY_LEVELS);
    if let Written::Given(priority, line) = written.default_priority
        && priority > levels
        && !written.priority_levels.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "default_priority",
            place: IN_MODEL,
            found: priority.to_string(),
            conflict: format!("above `priority_levels` ({levels})"),
            expected: format!("write 1 to {levels}"),
        };
        reading.report(Some(line), problem);
    }
    let timeout = written.timeout.or(ModelPlan::TIMEOUT);
    if let Written::Given(AutoOr::Value(delay), line) = written.max_queue_delay
        && delay >= timeout
        && !written.timeout.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "max_queue_delay",
            place: IN_MODEL,
            found: quote(&format_duration(delay)),
            conflict: format!("not below `timeout` ({})", format_duration(timeout)),
            expected: "a call without company would always be too late; lower it".into(),
        };
        reading.report(Some(line), problem);
    }
}

/// Reports a list that is longer than `maximum`.
pub(super) fn report_range(
    reading: &mut Reading,
    line: usize,
    key: &'static str,
    place: &'static str,
    found: String,
    maximum: usize,
) {
    let (minimum, maximum) = ("1".to_owned(), maximum.to_string());
    reading.report(Some(line), Problem::OutOfRange { key, place, found, minimum, maximum });
}

fn resolve_health(
    written: &HealthWritten,
    protocol: Protocol,
    reading: &mut Reading,
) -> HealthPlan {
    const PLACE: &str = "in [model.health]";
    let default = HealthPlan::default();
    let interval = written.interval.or(default.interval);
    if let Written::Given(timeout, line) = written.timeout
        && timeout > interval
        && !written.interval.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "timeout",
            place: PLACE,
            found: quote(&format_duration(timeout)),
            conflict: format!("above `interval` ({})", format_duration(interval)),
            expected: "probes of one instance must not overlap; lower it".into(),
        };
        reading.report(Some(line), problem);
    }
    if let Written::Given(path, line) = &written.path {
        let expected = "a path such as \"/health\", for a protocol over HTTP".to_owned();
        let reason = if !protocol.is_http() {
            Some(format!("protocol `{protocol}` is not probed by path"))
        } else if !path.starts_with('/') || !path.chars().all(|c| c.is_ascii_graphic()) {
            Some("it is not an absolute path".to_owned())
        } else {
            None
        };
        if let Some(reason) = reason {
            let found = quote(path);
            let problem = Problem::BadValue { key: "path", place: PLACE, found, reason, expected };
            reading.report(Some(*line), problem);
        }
    }
    HealthPlan {
        interval,
        timeout: written.timeout.or(default.timeout.min(interval)),
        unhealthy_after: written.unhealthy_after.or(default.unhealthy_after),
        healthy_after: written.healthy_after.or(default.healthy_after),
        loading_hold: written.loading_hold.or(default.loading_hold),
        path: written.path.value().cloned(),
    }
}

fn resolve_breaker(written: &BreakerWritten, reading: &mut Reading) -> BreakerPlan {
    let default = BreakerPlan::default();
    let open_for = written.open_for.or(default.open_for);
    if let Written::Given(max_open_for, line) = written.max_open_for
        && max_open_for < open_for
        && !written.open_for.is_malformed()
    {
        let problem = Problem::Conflict {
            key: "max_open_for",
            place: "in [model.breaker]",
            found: quote(&format_duration(max_open_for)),
            conflict: format!("below `open_for` ({})", format_duration(open_for)),
            expected: "raise it, or lower `open_for`".into(),
        };
        reading.report(Some(line), problem);
    }
    BreakerPlan {
        window: written.window.or(default.window),
        minimum_volume: written.minimum_volume.or(default.minimum_volume),
        failure_ratio: written.failure_ratio.or(default.failure_ratio),
        consecutive_failures: written.consecutive_failures.or(default.consecutive_failures),
        open_for,
        max_open_for: written.max_open_for.or(default.max_open_for.max(open_for)),
        half_open_probes: written.half_open_probes.or(default.half_open_probes),
        panic_threshold: written.panic_threshold.or(default.panic_threshold),
    }
}
