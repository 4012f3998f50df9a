//! Bad days: what the proxy does while its model servers, its callers or its own processes fail.
//!
//! ```text
//! cargo bench --bench chaos
//! cargo bench --bench chaos -- frozen hanging
//! cargo bench --bench chaos -- trio --seconds 60
//! ```
//! Everything is real: processes, sockets, signals. Load is open-loop, latency counts from the
//! intended time of sending, and each answer is checked against its own question. Every scenario
//! prints what it saw beside the bounds that it holds the proxy to; a missed bound makes the exit
//! code 1. Model servers take 10 ms a batch and 0.5 ms a row, 32 rows at most, times `--scale`.

#[path = "../support/mod.rs"]
pub mod support;

#[path = "../../tests/support/model_server/mod.rs"]
pub mod model_server;

mod cancels;
mod failing;
mod killer;
mod lossy;
mod namespace;
mod options;
mod outage;
mod overload;
mod poison;
mod relay;
mod reload;
mod report;
mod rolling;
mod scene;
mod slow_link;
mod trio;

use std::process::ExitCode;

use clap::Parser as _;

use namespace::NAMESPACE_ROLE;
use options::{Arguments, Scenario};
use report::{Report, Verdict};
use slow_link::SlowLink;
use support::Failure;
use support::servers::{MODEL_SERVER_ROLE, serve_model};

fn main() -> Result<ExitCode, Failure> {
    // One thread: cheap, and what it measures is not moved between processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(MODEL_SERVER_ROLE) => {
            runtime.block_on(serve_model(&arguments.collect::<Vec<_>>()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(NAMESPACE_ROLE) => {
            let arguments = Arguments::parse_from(std::env::args().skip(1));
            runtime.block_on(lossy::inside(&arguments))?.print(true)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => runtime.block_on(run(&Arguments::parse())),
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut verdicts = Vec::new();
    for scenario in arguments.scenarios() {
        let mut report = match play(scenario, arguments).await {
            Ok(report) => report,
            Err(failure) => Report::broken(scenario.name(), &failure),
        };
        if arguments.network {
            report.note(SlowLink::describe());
        }
        report.print(arguments.json)?;
        verdicts.push((report.scenario, report.verdict()));
    }
    if !arguments.json {
        report::print_verdicts(&verdicts)?;
    }
    let passed = verdicts.iter().all(|(_, verdict)| *verdict != Verdict::Fail);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(scenario: Scenario, arguments: &Arguments) -> Result<Report, Failure> {
    match scenario {
        Scenario::Frozen => outage::frozen(arguments).await,
        Scenario::Hanging => outage::hanging(arguments).await,
        Scenario::Trio => trio::run(arguments).await,
        Scenario::AllFail => failing::run(arguments).await,
        Scenario::Poison => poison::one_in_a_thousand(arguments).await,
        Scenario::PoisonBatch => poison::one_in_a_batch(arguments).await,
        Scenario::Killer => killer::run(arguments).await,
        Scenario::Overload => {
            overload::run(arguments, scenario.name(), arguments.model(overload::SCALE)).await
        }
        Scenario::OverloadFlat => {
            overload::run(arguments, scenario.name(), arguments.flat_model(overload::SCALE)).await
        }
        Scenario::Cancels => cancels::run(arguments).await,
        Scenario::Rolling => rolling::run(arguments).await,
        Scenario::Reload => reload::run(arguments).await,
        Scenario::Lossy => lossy::run().await,
    }
}
