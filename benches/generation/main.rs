//! Generation: whether the engine is kept full, its own queue short, and urgent calls before bulk.
//!
//! ```text
//! cargo bench --bench generation
//! cargo bench --bench generation -- --seconds 30 --silent
//! ```
//! The engine is simulated (token steps, a running set, a queue), sockets and the proxy are real. Fixed
//! limits on the streams in flight are swept first; the learned limit is held against the best of them.
//! A missed bound makes the exit code 1.

#[path = "../support/mod.rs"]
pub mod support;

#[path = "../../tests/support/model_server/mod.rs"]
pub mod model_server;

mod background;
mod caller;
mod disconnects;
mod engine;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use caller::{Caller, Question, percentile};
use engine::{Done, Engine, Settings};
use support::Failure;
use support::batchwise::Batchwise;
use support::directory::Directory;

const URGENT: Question = Question { priority: 1, tokens: 20, stream: true };
const BULK: Question = Question { priority: 3, tokens: 60, stream: true };
/// Of the engine's tokens.
const URGENT_SHARE: f64 = 0.1;
/// Bulk callers for each place of the engine.
const BULK_CALLERS: usize = 3;
/// The limit is learned meanwhile.
const WARM_UP: Duration = Duration::from_secs(8);

const USE: f64 = 0.95;
const FIRST_EVENT_RATIO: f64 = 1.3;
const WAITING: usize = 2;

/// A part of the whole.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    /// Urgent calls among bulk.
    Mixed,
    /// Live calls beside a batch of the Batch API.
    Batch,
    /// Callers that go away.
    Disconnects,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// Length of each measurement.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Sequences that the engine works on at once.
    #[arg(long, default_value_t = 64)]
    places: usize,
    /// The engine does not publish its load.
    #[arg(long)]
    silent: bool,
    /// Only this, against the engine's most instead of a sweep.
    #[arg(long)]
    only: Option<Part>,
    /// The proxy's program.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_batchwise"))]
    program: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&Arguments::parse()))
}

/// A proxy in front of an engine.
struct Scene {
    engine: Engine,
    caller: Caller,
    proxy: Batchwise,
    _directory: Directory,
}

impl Scene {
    async fn start(arguments: &Arguments, keys: &str) -> Result<Self, Failure> {
        let engine = Engine::start(arguments.engine()).await?;
        let text = format!(
            "[[model]]\nname = \"m\"\nprotocol = \"openai\"\ninstances = [\"http://{}\"]\ntimeout = \"10m\"\n{keys}\n",
            engine.address
        );
        let directory = Directory::create()?;
        let mut proxy = Batchwise::start(&arguments.program, "proxy", &text, &directory).await?;
        proxy.wait_until_ready().await?;
        Ok(Self { caller: Caller::of(proxy.http), engine, proxy, _directory: directory })
    }

    /// What the engine does under nothing but bulk.
    async fn bulk_only(&self, arguments: &Arguments) -> Done {
        let _bulk = self.caller.keep_asking(BULK_CALLERS * arguments.places, BULK);
        tokio::time::sleep(WARM_UP).await;
        self.engine.done();
        tokio::time::sleep(arguments.length()).await;
        self.engine.done()
    }
}

impl Arguments {
    fn engine(&self) -> Settings {
        Settings {
            places: self.places,
            step: Duration::from_millis(20),
            per_sequence: Duration::from_micros(30),
            publishes: !self.silent,
        }
    }

    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds.max(1))
    }
}

/// What was found, and whether it is within its bounds.
struct Verdicts(bool);

impl Verdicts {
    fn note(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    }

    fn hold(&mut self, what: &str, found: f64, bound: f64, kept: bool) -> Result<(), Failure> {
        self.0 &= kept;
        let word = if kept { "kept" } else { "MISSED" };
        self.note(&format!("{word:>6}  {what}: {found:.2} ({bound:.2})"))
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut verdicts = Verdicts(true);
    let settings = arguments.engine();
    verdicts.note(&format!(
        "{} places, {:.0} tokens/s at most, {}",
        arguments.places,
        settings.tokens_per_second(),
        if arguments.silent { "publishes nothing" } else { "publishes its load" }
    ))?;
    let most = settings.tokens_per_second();
    match arguments.only {
        None => everything(arguments, &mut verdicts).await?,
        Some(Part::Mixed) => mixed(arguments, &mut verdicts, most).await?,
        Some(Part::Batch) => background::run(arguments, &mut verdicts, most).await?,
        Some(Part::Disconnects) => disconnects::run(arguments, &mut verdicts).await?,
    }
    Ok(if verdicts.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn everything(arguments: &Arguments, verdicts: &mut Verdicts) -> Result<(), Failure> {
    let mut best = 0.0_f64;
    for limit in [arguments.places / 2, arguments.places, arguments.places * 2] {
        let scene = Scene::start(arguments, &format!("max_concurrency = {limit}")).await?;
        let done = scene.bulk_only(arguments).await;
        let rate = done.tokens as f64 / arguments.length().as_secs_f64();
        best = best.max(rate);
        verdicts.note(&format!(
            "        limit {limit}: {rate:.0} tokens/s, {} wait in the engine (p95)",
            done.waiting_p95
        ))?;
    }
    let done = Scene::start(arguments, "").await?.bulk_only(arguments).await;
    let rate = done.tokens as f64 / arguments.length().as_secs_f64();
    verdicts.hold(
        "use of the best fixed limit, bulk only",
        rate / best,
        USE,
        rate >= USE * best,
    )?;
    let waiting = done.waiting_p95;
    verdicts.hold("wait in the engine, p95", waiting as f64, WAITING as f64, waiting <= WAITING)?;

    mixed(arguments, verdicts, best).await?;
    background::run(arguments, verdicts, best).await?;
    disconnects::run(arguments, verdicts).await
}

/// Urgent calls alone, then among three times more bulk than the engine can bear.
async fn mixed(arguments: &Arguments, verdicts: &mut Verdicts, best: f64) -> Result<(), Failure> {
    let rate = URGENT_SHARE * arguments.engine().tokens_per_second() / URGENT.tokens as f64;
    let scene = Scene::start(arguments, "").await?;
    let length = arguments.length() * 2;
    let alone = scene.caller.arrivals(rate, 1, length, URGENT).await;
    let bulk = scene.caller.keep_asking(BULK_CALLERS * arguments.places, BULK);
    scene.caller.arrivals(rate, 2, WARM_UP, URGENT).await;
    scene.engine.done();
    let among = scene.caller.arrivals(rate, 1, length, URGENT).await;
    let done = scene.engine.done();
    drop(bulk);
    verdicts.note(&format!(
        "        time to first event, p50 and p99: {:.0} and {:.0} ms alone, {:.0} and {:.0} ms among bulk, {} calls",
        percentile(&alone.first, 50), percentile(&alone.first, 99),
        percentile(&among.first, 50), percentile(&among.first, 99), among.first.len()
    ))?;
    let ratio = percentile(&among.first, 99) / percentile(&alone.first, 99);
    let kept = ratio <= FIRST_EVENT_RATIO;
    verdicts.hold("time to first event among bulk, p99", ratio, FIRST_EVENT_RATIO, kept)?;
    let use_ = done.tokens as f64 / length.as_secs_f64() / best;
    verdicts.hold("use of the best fixed limit, mixed", use_, USE, use_ >= USE)?;
    let waiting = done.waiting_p95;
    verdicts.hold(
        "wait in the engine, p95, mixed",
        waiting as f64,
        WAITING as f64,
        waiting <= WAITING,
    )?;
    let failed = among.failed + alone.failed;
    verdicts.hold("urgent calls failed", failed as f64, 0.0, failed == 0)
}
