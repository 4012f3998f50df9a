//! A caller at work: one phase of calls, each in a task of its own or all in one stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::Client;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::random::Random;
use crate::road::{Direction, Road};
use crate::scenario::{Caller, GRPC_PORT, HTTP_PORT, Manners, Phase};
use crate::speech::{Call, Heard, Speech};

/// Far longer than any call may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A caller with its connections.
pub(crate) struct Visitor {
    caller: Caller,
    model: &'static str,
    road: Road,
    client: Arc<Client>,
    ids: Arc<AtomicU64>,
    ledger: Ledger,
}

/// A call, and how long its caller stays.
struct Meant {
    call: Call,
    leaves: Option<Duration>,
}

impl Visitor {
    pub(crate) fn new(
        caller: Caller,
        model: &'static str,
        seed: u64,
        network: &Network,
        ids: &Arc<AtomicU64>,
        ledger: &Ledger,
    ) -> Self {
        let road = Road::new(seed, caller.delay);
        road.set_crumbles(caller.manners == Manners::Slow);
        let port = if caller.speech == Speech::Grpc { GRPC_PORT } else { HTTP_PORT };
        let client = Client::new(network, road.clone(), port, caller.carrier);
        let (ids, ledger) = (Arc::clone(ids), ledger.clone());
        Self { caller, model, road, client: Arc::new(client), ids, ledger }
    }

    /// Makes the calls of a phase and waits for what comes of them.
    pub(crate) async fn call(&self, number: usize, phase: &Phase, mut random: Random) {
        let mut recklessness = JoinSet::new();
        if self.caller.manners == Manners::Reckless {
            recklessness.spawn(break_things(self.road.clone(), Random::new(random.next())));
        }
        if self.caller.streams {
            self.stream(number, phase, &mut random).await;
        } else {
            let mut calls = JoinSet::new();
            for _ in 0..phase.calls {
                sleep(gap(phase, &mut random)).await;
                let meant = self.draw(phase, &mut random);
                self.ledger.begins(&meant.call, self.caller.manners, number);
                calls.spawn(make(Arc::clone(&self.client), meant, self.ledger.clone()));
            }
            while calls.join_next().await.is_some() {}
        }
        recklessness.shutdown().await;
        self.road.cut_none();
    }

    fn draw(&self, phase: &Phase, random: &mut Random) -> Meant {
        let is_chat = matches!(self.caller.speech, Speech::Chat | Speech::ChatEvents);
        let rows = match random.below(10) {
            _ if is_chat => 1,
            0 => 1 + random.below(40),
            1..5 => 1 + random.below(4),
            _ => 1,
        };
        let hurries = !self.caller.streams && random.chance(phase.hurries);
        let leaves = !self.caller.streams && random.chance(phase.leaves);
        let call = Call {
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            model: self.model.to_owned(),
            speech: self.caller.speech,
            datatype: self.caller.datatype(random),
            rows: i64::try_from(rows).unwrap(),
            poison: random.chance(phase.poison),
            priority: 1 + random.below(3) as u8,
            tenant: random.below(3) as u8,
            timeout_ms: hurries.then(|| 5 + random.below(100)),
        };
        Meant { call, leaves: leaves.then(|| Duration::from_millis(random.below(60))) }
    }

    async fn stream(&self, number: usize, phase: &Phase, random: &mut Random) {
        let mut left: Vec<(Duration, Call)> = (0..phase.calls)
            .map(|_| (gap(phase, random), self.draw(phase, random).call))
            .rev()
            .collect();
        let span = 2 * phase.calls * phase.mean_gap_ms;
        let leaves = random.chance(phase.leaves).then(|| Duration::from_millis(random.below(span)));
        let Some((_, first)) = left.last().cloned() else { return };
        let mut open = BTreeMap::new();
        let exchange = self.exchange(number, &first, &mut left, &mut open);
        let end = tokio::select! {
            biased;
            end = exchange => end,
            () = sleep(leaves.unwrap_or(PATIENCE)) => None,
        };
        for call in open.into_values() {
            self.ledger.ends(call.id, end.clone().map_or(Heard::Nothing, Heard::Broken));
        }
    }

    /// Sends calls and reads answers until the stream ends; `open` are those without an answer.
    /// Returns how it ended, if that is not how it should.
    async fn exchange(
        &self,
        number: usize,
        first: &Call,
        left: &mut Vec<(Duration, Call)>,
        open: &mut BTreeMap<String, Call>,
    ) -> Option<String> {
        let mut stream = match self.client.open_stream(first).await {
            Ok(stream) => stream,
            Err(error) => return Some(error),
        };
        let mut next = Instant::now();
        loop {
            let reply = tokio::select! {
                biased;
                reply = stream.next() => reply,
                () = sleep_until(next), if !left.is_empty() => {
                    let Some((gap, call)) = left.pop() else { continue };
                    self.ledger.begins(&call, self.caller.manners, number);
                    stream.send(&call);
                    open.insert(format!("call-{}", call.id), call);
                    next = Instant::now() + gap;
                    if left.is_empty() {
                        stream.finish();
                    }
                    continue;
                }
            };
            let reply = match reply {
                Ok(reply) => reply,
                Err(end) if open.is_empty() && end.ends_with(r#"Some("0")"#) => return None,
                Err(end) => return Some(end),
            };
            let answer = reply.infer_response.unwrap_or_default();
            let Some(call) = open.remove(&answer.id) else {
                self.ledger.ends(first.id, Heard::Wrong(format!("{:?} was not asked", answer.id)));
                continue;
            };
            let heard = match reply.error_message.as_str() {
                "" => call.hear_message(&answer),
                message => Heard::Refused(message.to_owned()),
            };
            self.ledger.ends(call.id, heard);
        }
    }

    /// Closes its connections.
    pub(crate) async fn go(&self) {
        self.client.close().await;
    }
}

fn gap(phase: &Phase, random: &mut Random) -> Duration {
    if random.chance(0.3) {
        return Duration::ZERO;
    }
    Duration::from_micros((random.exponential(phase.mean_gap_ms as f64) * 1e3) as u64)
}

async fn make(client: Arc<Client>, meant: Meant, ledger: Ledger) {
    let Meant { call, leaves } = meant;
    let heard = tokio::select! {
        biased;
        heard = client.call(&call) => heard,
        () = sleep(leaves.unwrap_or(PATIENCE)) => Heard::Nothing,
    };
    ledger.ends(call.id, heard);
}

/// Cuts and resets lines now and then, for ever.
async fn break_things(road: Road, mut random: Random) {
    loop {
        sleep(Duration::from_millis(20 + random.below(300))).await;
        match random.below(3) {
            0 => road.reset_lines(),
            1 => road.cut_next(Direction::Out, random.below(300) as usize),
            _ => road.cut_next(Direction::Back, random.below(300) as usize),
        }
    }
}
