//! Three model servers, one after the other in every kind of trouble, near the capacity of two.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::options::Arguments;
use super::report::Report;
use super::scene::Scene;
use crate::support::Failure;
use crate::support::process::Tell;
use crate::support::records::Records;
use crate::support::servers::{ModelServers, Server};

const INSTANCES: usize = 3;
/// Of the capacity of all three: more than two can do, so that calls pile up while one is out.
const LOAD: f64 = 0.7;
/// Over slow links a model server can do less than it could.
const LOAD_OVER_LINKS: f64 = 0.5;
const TROUBLE: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Killed,
    Frozen,
    Resets,
    Garbage,
    Internal,
    Unavailable,
}

impl Trouble {
    const ALL: [Self; 6] = [
        Self::Killed,
        Self::Frozen,
        Self::Resets,
        Self::Garbage,
        Self::Internal,
        Self::Unavailable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Killed => "is killed, started again",
            Self::Frozen => "is stopped (SIGSTOP)",
            Self::Resets => "resets connections",
            Self::Garbage => "answers garbage",
            Self::Internal => "answers INTERNAL",
            Self::Unavailable => "answers UNAVAILABLE",
        }
    }

    async fn begin(self, server: &mut Server) -> Result<(), Failure> {
        match self {
            Self::Killed => server.kill().await,
            Self::Frozen => server.tell(Tell::Freeze),
            Self::Resets => server.control(&json!({ "drop_connection": "always" })).await,
            Self::Garbage => server.control(&json!({ "garbage": "always" })).await,
            Self::Internal => server.control(&failing(13, 500)).await,
            Self::Unavailable => server.control(&failing(14, 503)).await,
        }
    }

    async fn end(self, server: &mut Server) -> Result<(), Failure> {
        match self {
            Self::Killed => server.start_again().await,
            Self::Frozen => server.tell(Tell::Thaw),
            Self::Resets => server.control(&json!({ "drop_connection": "never" })).await,
            Self::Garbage => server.control(&json!({ "garbage": "never" })).await,
            Self::Internal | Self::Unavailable => server.control(&json!({ "fail": "never" })).await,
        }
    }
}

fn failing(grpc: i32, http: u16) -> Value {
    let status = json!({ "grpc": grpc, "http": http, "message": "injected failure" });
    json!({ "fail": "always", "fail_with": status })
}

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(1.0);
    let share = if arguments.network { LOAD_OVER_LINKS } else { LOAD };
    let rate = model.capacity(INSTANCES) * share;
    let mut scene = Scene::start(arguments, INSTANCES, &model.settings(), &[]).await?;
    scene.warm_up(rate).await?;
    let length = arguments.length(50);
    let counted = scene.servers.counted().await?;
    let load = super::scene::load(&scene.asker, rate, length, scene.seed);
    let script = trouble(&mut scene.servers, length);
    let (records, script) = tokio::join!(load, script);
    let (records, spells) = (records?, script?);

    let setting = format!(
        "{}, {rate:.0}/s, {} % of the capacity; one after the other in trouble for {TROUBLE:?}",
        model.describe(INSTANCES),
        share * 100.0
    );
    let mut report = Report::new("trio", setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    if let Some(first) = spells.first() {
        report.phase("before", &records.before(first.from));
    }
    for trouble in Trouble::ALL {
        let spells: Vec<&Spell> = spells.iter().filter(|spell| spell.trouble == trouble).collect();
        let within = records.those(|call| {
            let within =
                |spell: &&Spell| call.ended() >= spell.from && call.intended < spell.to + REST;
            spells.iter().any(within)
        });
        report.phase(trouble.name(), &within);
        let share = rate / INSTANCES as f64 * REST.as_secs_f64();
        let back = spells.iter().map(|spell| match spell.back_after {
            Some(after) => format!(
                "after {:.2} s, {:.0} % of its share",
                after.as_secs_f64(),
                100.0 * spell.rows_in_rest as f64 / share
            ),
            None => "not at all".to_owned(),
        });
        let back: Vec<String> = back.collect();
        report.note(format!(
            "back at work in the {REST:?} after it {}: {}",
            trouble.name(),
            back.join("; ")
        ));
    }
    if let Some(last) = spells.last() {
        report.phase("after", &records.after(last.to + REST / 2));
    }
    report.note(format!("{} troubles; a line counts until {REST:?} after their end", spells.len()));
    if let Some(note) = outliers(&records, &spells) {
        report.note(note);
    }
    report.none("calls without the right answer", records.all().not_right());
    Ok(report)
}

/// Calls that took far longer than the others, and what happened when the longest of them was sent.
fn outliers(records: &Records, spells: &[Spell]) -> Option<String> {
    let limit_ms = 1.5 * records.all().quantile_ms(0.999);
    let longer = records.those(|call| call.latency.as_secs_f64() * 1e3 > limit_ms);
    let longest = records.calls.iter().max_by_key(|call| call.latency)?;
    let sent_during =
        |spell: &&Spell| spell.from <= longest.ended() && longest.intended < spell.to + REST;
    let spell = spells.iter().find(sent_during)?;
    Some(format!(
        "{} calls took more than 1.5 x p99.9 ({limit_ms:.0} ms); the longest of all was under way when \
         one {}: sent {:.1} s after that began, it took {:.1} s and ended {:?}",
        longer.calls,
        spell.trouble.name(),
        seconds_since(spell.from, longest.intended),
        longest.latency.as_secs_f64(),
        longest.end,
    ))
}

fn seconds_since(earlier: Instant, later: Instant) -> f64 {
    let before = earlier.saturating_duration_since(later).as_secs_f64();
    later.saturating_duration_since(earlier).as_secs_f64() - before
}

/// One model server in trouble.
struct Spell {
    trouble: Trouble,
    from: Instant,
    to: Instant,
    /// From its end until the first batch was executed.
    back_after: Option<Duration>,
    /// Rows executed from its end until the next trouble.
    rows_in_rest: u64,
}

/// One trouble after the other, as many as there is time for.
async fn trouble(servers: &mut ModelServers, length: Duration) -> Result<Vec<Spell>, Failure> {
    let ends = Instant::now() + length;
    let mut done = Vec::new();
    tokio::time::sleep(REST / 2).await;
    for (turn, trouble) in Trouble::ALL.into_iter().cycle().enumerate() {
        if Instant::now() + TROUBLE + REST > ends {
            break;
        }
        // Each kind of trouble meets another model server the next time.
        let server = servers.get_mut((turn + turn / Trouble::ALL.len()) % INSTANCES)?;
        let from = Instant::now();
        trouble.begin(server).await?;
        tokio::time::sleep(TROUBLE).await;
        trouble.end(server).await?;
        let to = Instant::now();
        let (back_after, rows_in_rest) = rest(server).await?;
        done.push(Spell { trouble, from, to, back_after, rows_in_rest });
    }
    Ok(done)
}

/// Waits until the next trouble: when the model server was given work again, and how much of it.
async fn rest(server: &Server) -> Result<(Option<Duration>, u64), Failure> {
    let began = Instant::now();
    let before = server.counted().await?.rows;
    let mut back_after = None;
    loop {
        let rows = server.counted().await?.rows - before;
        if rows > 0 && back_after.is_none() {
            back_after = Some(began.elapsed());
        }
        if began.elapsed() >= REST {
            return Ok((back_after, rows));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
