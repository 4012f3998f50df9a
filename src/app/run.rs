//! The commands, from the command line to the exit code.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cli::{Command, CommandLine, Exit, Format, ServeArguments};
use super::reload::Origin;
use super::serve::Shutdown;
use super::{offline, serve};
use crate::config;
use crate::engine::Drained;
use crate::telemetry::{LogFormat, init_log};

/// Does what the command line says.
pub fn run(command_line: CommandLine) -> Exit {
    match command_line.command {
        Command::Offline(command) => {
            offline::run(&command, &mut std::io::stdout().lock()).unwrap_or(Exit::Failed)
        }
        Command::Serve(arguments) => serve(&arguments),
    }
}

fn serve(arguments: &ServeArguments) -> Exit {
    init_log(match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    });
    let overrides = arguments.listen.overrides();
    let loaded = config::load(arguments.config.config.as_deref(), &overrides);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(&error.to_string());
            return Exit::Usage;
        }
    };
    for finding in &loaded.warnings {
        tracing::warn!(key = finding.key, mend = finding.mend, "{}", finding.message);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads(loaded.plan.server.worker_threads))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start the runtime: {error}"));
            return Exit::Failed;
        }
    };
    let origin = Origin::of(&loaded, Path::new(config::DEFAULT_FILE), overrides);
    runtime.block_on(serve_plan(origin, &loaded.plan))
}

/// As many as the user says; else one less than the processors, at least 1.
///
/// A call hops between tasks, and a runtime with idle threads spreads the hops over them: on two
/// processors that costs a third more than it gains. One processor is left to the kernel and to
/// whoever else is on the machine, such as the model.
fn worker_threads(asked: Option<u32>) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or(processors - 1, |asked| asked as usize).max(1)
}

async fn serve_plan(origin: Origin, plan: &config::Plan) -> Exit {
    let [terminate, interrupt, hang_up] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (terminate, interrupt, hang_up)
    else {
        complain("cannot listen for signals");
        return Exit::Failed;
    };
    let running = match serve::start_from(origin, plan).await {
        Ok(running) => running,
        Err(error) => {
            complain(&chain(&error));
            return Exit::Failed;
        }
    };
    tracing::info!(
        http = %running.http, grpc = %running.grpc, admin = %running.admin,
        models = plan.models.len(), version = env!("CARGO_PKG_VERSION"), "batchwise serves"
    );
    let reload_when_told = async {
        while hang_up.recv().await.is_some() {
            running.reloads.trigger();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = wait(&mut terminate, &mut interrupt) => {}
        () = reload_when_told => {}
    }
    let Shutdown { delay, grace } = running.shutdown();
    let models = std::sync::Arc::clone(&running.models);
    let end = async {
        if !delay.is_zero() {
            models.announce_drain();
            tracing::info!(?delay, "not ready any more; calls are still accepted for a while");
            tokio::time::sleep(delay).await;
        }
        tracing::info!(?grace, "draining: new calls are refused, accepted ones are answered");
        running.drain(grace).await
    };
    tokio::select! {
        drained = end => match drained {
            Drained::Clean => {
                tracing::info!("drained: everything accepted was answered");
                Exit::Done
            }
            Drained::Cut(calls) => {
                tracing::error!(calls, "the grace period is over; calls were cut");
                Exit::Failed
            }
        },
        () = wait(&mut terminate, &mut interrupt) => {
            let calls = tokio::time::timeout(Duration::from_secs(1), models.open_calls()).await;
            tracing::error!(calls = calls.unwrap_or_default(), "a second signal; calls were cut");
            Exit::Failed
        }
    }
}

async fn wait(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// An error with all that caused it, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[expect(clippy::print_stderr, reason = "said before or without a log")]
fn complain(message: &str) {
    eprintln!("{message}");
}
