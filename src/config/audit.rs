//! What is unsafe or missing for production in a configuration that is valid.

use std::net::SocketAddr;

use super::Overrides;
use super::explain::{Finding, Severity, clip};
use super::file::{File, ModelWritten};
use super::plan::{EmbeddedKind, ModelPlan, Plan, Protocol};
use super::units::{format_duration, format_size};

/// One thing that works, but not as production needs it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum Concern {
    #[error(
        "the admin listener {0} can be reached from other machines, and asks for no credential"
    )]
    AdminExposed(SocketAddr),
    #[error(
        "the {0} listener {1} can be reached from other machines, and has neither TLS nor credentials"
    )]
    ListenerExposed(&'static str, SocketAddr),
    #[error("model `{0}` has one instance: when it fails or restarts, every call fails")]
    SingleInstance(String),
    #[error("model `{0}` is a built-in model for trying things out")]
    Demonstration(String),
    #[error("`slo` of model `{model}` ({slo}) is above its `timeout` ({timeout})")]
    SloBeyondTimeout { model: String, slo: String, timeout: String },
    #[error("`max_queue_delay` of model `{model}` ({delay}) is not below its `slo` ({slo})")]
    DelayBeyondSlo { model: String, delay: String, slo: String },
    #[error(
        "`timeout` of model `{model}` ({timeout}) is above `shutdown_grace` ({grace}): a shutdown cuts calls that are still in time"
    )]
    TimeoutBeyondGrace { model: String, timeout: String, grace: String },
    #[error(
        "`max_batch_size` of model `{model}` ({rows}) is above its `max_queue_size` ({queue}): no batch can be full"
    )]
    BatchBeyondQueue { model: String, rows: u32, queue: u32 },
    #[error(
        "`max_queue_bytes` of model `{model}` ({queue}) is below `max_request_bytes` ({request}): the largest calls are read only to be refused"
    )]
    RequestBeyondQueue { model: String, queue: String, request: String },
    #[error("`upstream_name` of model `{0}` has no effect: it is embedded")]
    UpstreamNameUnused(String),
}

impl Concern {
    fn mend(&self) -> String {
        match self {
            Self::AdminExposed(_) => {
                "bind it to 127.0.0.1, or let only the monitoring network reach it".into()
            }
            Self::ListenerExposed(..) => {
                "bind it to 127.0.0.1, or let only a private network or a TLS proxy reach it".into()
            }
            Self::SingleInstance(_) => "add a second one to `instances`".into(),
            Self::Demonstration(_) => "replace it by a model of your own".into(),
            Self::SloBeyondTimeout { .. } => "lower `slo`".into(),
            Self::DelayBeyondSlo { .. } => "lower it, or leave it to \"auto\"".into(),
            Self::TimeoutBeyondGrace { timeout, .. } => {
                format!("raise `shutdown_grace` to {timeout} or more")
            }
            Self::BatchBeyondQueue { .. } => "raise `max_queue_size`".into(),
            Self::RequestBeyondQueue { .. } => {
                "raise `max_queue_bytes` or lower `max_request_bytes`".into()
            }
            Self::UpstreamNameUnused(_) => "remove it".into(),
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Self::AdminExposed(_) => "server.admin",
            Self::ListenerExposed("grpc", _) => "server.grpc",
            Self::ListenerExposed(..) => "server.http",
            Self::SingleInstance(_) | Self::Demonstration(_) => "model.instances",
            Self::SloBeyondTimeout { .. } => "model.slo",
            Self::DelayBeyondSlo { .. } => "model.max_queue_delay",
            Self::TimeoutBeyondGrace { .. } => "model.timeout",
            Self::BatchBeyondQueue { .. } => "model.max_batch_size",
            Self::RequestBeyondQueue { .. } => "model.max_queue_bytes",
            Self::UpstreamNameUnused(_) => "model.upstream_name",
        }
    }
}

/// Looks at a valid plan with the eyes of an operator. Gives warnings in the order of the file; what
/// the command line said has no line.
pub(super) fn audit(file: &File, plan: &Plan, overrides: &Overrides, name: &str) -> Vec<Finding> {
    let mut concerns = server_concerns(file, plan, overrides);
    let written = file.models.as_deref().unwrap_or_default();
    for (written, model) in written.iter().zip(&plan.models) {
        model_concerns(written, model, plan, &mut concerns);
    }
    concerns.sort_by_key(|(line, _)| *line);
    let finding = |(line, concern): (Option<usize>, Concern)| Finding {
        file: name.to_owned(),
        line,
        severity: Severity::Warning,
        key: Some(concern.key().to_owned()),
        message: concern.to_string(),
        mend: concern.mend(),
    };
    concerns.into_iter().map(finding).collect()
}

fn server_concerns(
    file: &File,
    plan: &Plan,
    overrides: &Overrides,
) -> Vec<(Option<usize>, Concern)> {
    let server = &plan.server;
    let line = |overridden: Option<SocketAddr>, line: Option<usize>| match overridden {
        Some(_) => None,
        None => line,
    };
    let mut concerns = Vec::new();
    for (listener, address, line) in [
        ("http", server.http, line(overrides.http, file.server.http.line())),
        ("grpc", server.grpc, line(overrides.grpc, file.server.grpc.line())),
    ] {
        if !address.ip().is_loopback() {
            concerns.push((line, Concern::ListenerExposed(listener, address)));
        }
    }
    if !server.admin.ip().is_loopback() {
        let line = line(overrides.admin, file.server.admin.line());
        concerns.push((line, Concern::AdminExposed(server.admin)));
    }
    concerns
}

fn model_concerns(
    written: &ModelWritten,
    model: &ModelPlan,
    plan: &Plan,
    concerns: &mut Vec<(Option<usize>, Concern)>,
) {
    let name = || clip(&model.name);
    let mut push =
        |line: Option<usize>, concern| concerns.push((line.or(Some(written.line)), concern));
    if let Some(kind) = &model.embedded {
        if !matches!(kind, EmbeddedKind::Onnx { .. }) {
            push(written.instances.line(), Concern::Demonstration(name()));
        }
        if written.upstream_name.value().is_some() {
            push(written.upstream_name.line(), Concern::UpstreamNameUnused(name()));
        }
    }
    if model.protocol != Protocol::Embedded && model.instances.len() == 1 {
        push(written.instances.line(), Concern::SingleInstance(name()));
    }
    if let Some(slo) = model.slo {
        if slo > model.timeout {
            let (slo, timeout) = (format_duration(slo), format_duration(model.timeout));
            push(written.slo.line(), Concern::SloBeyondTimeout { model: name(), slo, timeout });
        }
        if let Some(delay) = model.max_queue_delay
            && delay >= slo
        {
            let (delay, slo) = (format_duration(delay), format_duration(slo));
            let line = written.max_queue_delay.line();
            push(line, Concern::DelayBeyondSlo { model: name(), delay, slo });
        }
    }
    if model.timeout > plan.server.shutdown_grace {
        let timeout = format_duration(model.timeout);
        let grace = format_duration(plan.server.shutdown_grace);
        push(written.timeout.line(), Concern::TimeoutBeyondGrace { model: name(), timeout, grace });
    }
    if let Some(rows) = model.max_batch_size
        && rows > model.max_queue_size
    {
        let queue = model.max_queue_size;
        let line = written.max_batch_size.line();
        push(line, Concern::BatchBeyondQueue { model: name(), rows, queue });
    }
    if plan.server.max_request_bytes > model.max_queue_bytes {
        let queue = format_size(model.max_queue_bytes);
        let request = format_size(plan.server.max_request_bytes);
        let line = written.max_queue_bytes.line();
        push(line, Concern::RequestBeyondQueue { model: name(), queue, request });
    }
}
