//! Three model servers, one after the other in every kind of trouble, near the capacity of two.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::options::Arguments;
use super::report::Report;
use super::scene::Scene;
use crate::support::Failure;
use crate::support::process::Tell;
use crate::support::servers::{ModelServers, Server};

const INSTANCES: usize = 3;
/// Of the capacity of all three: more than two can do, so that calls pile up while one is out.
const LOAD: f64 = 0.7;
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
            Self::Killed => "killed, started again",
            Self::Frozen => "stopped (SIGSTOP)",
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
    let rate = model.capacity(INSTANCES) * LOAD;
    let mut scene = Scene::start(arguments, INSTANCES, &model.settings(), &[]).await?;
    scene.warm_up(rate).await?;
    let length = arguments.length(50);
    let counted = scene.servers.counted().await?;
    let load = super::scene::load(&scene.asker, rate, length, scene.seed);
    let script = trouble(&mut scene.servers, length);
    let (records, script) = tokio::join!(load, script);
    let (records, troubles) = (records?, script?);

    let setting = format!(
        "{}, {rate:.0}/s, {} % of the capacity; one after the other in trouble for {TROUBLE:?}",
        model.describe(INSTANCES),
        LOAD * 100.0
    );
    let mut report = Report::new("trio", setting);
    report.totals(&records, scene.servers.counted().await?.since(counted));
    if let Some((_, first, _)) = troubles.first() {
        report.phase("before", &records.before(*first));
    }
    for trouble in Trouble::ALL {
        let spans: Vec<(Instant, Instant)> = troubles
            .iter()
            .filter(|(kind, _, _)| *kind == trouble)
            .map(|(_, from, to)| (*from, *to))
            .collect();
        let within = records.those(|call| {
            spans.iter().any(|(from, to)| call.ended() >= *from && call.intended < *to + REST)
        });
        report.phase(trouble.name(), &within);
    }
    if let Some((_, _, last)) = troubles.last() {
        report.phase("after", &records.after(*last + REST / 2));
    }
    report.note(format!(
        "{} troubles; a line counts from its beginning to {REST:?} after its end",
        troubles.len()
    ));
    report.none("calls without the right answer", records.all().not_right());
    Ok(report)
}

/// One trouble after the other, as many as there is time for.
async fn trouble(
    servers: &mut ModelServers,
    length: Duration,
) -> Result<Vec<(Trouble, Instant, Instant)>, Failure> {
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
        done.push((trouble, from, Instant::now()));
        tokio::time::sleep(REST).await;
    }
    Ok(done)
}
