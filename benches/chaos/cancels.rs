//! Callers who go away: before their turn, in the middle of it, over either protocol.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::options::Arguments;
use super::report::Report;
use super::scene::{Scene, plain};
use crate::model_server::{Settings, unix_time_us};
use crate::support::Failure;
use crate::support::asker::{Outcome, Question};
use crate::support::pace::{Gaps, Pacer, Random};
use crate::support::records::Records;

const INSTANCES: usize = 2;
/// So slow that calls have to wait.
const SCALE: f64 = 2.0;
/// Of the capacity: those who go away make room.
const LOAD: f64 = 1.6;
const CANCELS: usize = 10_000;
const PATIENCE: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(120);
/// A caller's going takes its time through two sockets and two schedulers. Whoever reaches a model
/// server later than this after going was sent there by a proxy that knew; on a busy machine, later
/// than some times what this program was itself held up at most.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
const HELD_UP: u32 = 3;
const QUIET_BOUND: Duration = Duration::from_secs(5);
const GAUGES: [&str; 2] = ["batchwise_queue_depth", "batchwise_instance_inflight"];

const GRPC: u8 = 0;
const HTTP1: u8 = 1;

/// What became of a caller.
#[derive(Debug)]
enum End {
    Answered(Outcome),
    /// Gone at this time, in microseconds since the Unix epoch.
    Gone(u64),
}

#[derive(Debug, Default)]
struct Seen {
    answered: Records,
    gone: HashMap<u8, Vec<(f32, u64)>>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let model = arguments.model(SCALE);
    let settings = Settings { journal: 1 << 20, ..model.settings() };
    let scene = Scene::start(arguments, INSTANCES, &settings, &[]).await?;
    scene.warm_up(model.capacity(INSTANCES) * 0.5).await?;
    let counted = scene.servers.counted().await?;
    let rate = model.capacity(INSTANCES) * LOAD;
    let seen = callers_that_go(&scene, rate, arguments).await?;
    let [queue, inflight, under_way] = wait_until_quiet(&scene).await?;

    let gone = seen.gone.values().map(Vec::len).sum::<usize>();
    let setting = format!(
        "{}, {rate:.0}/s; {gone} callers go away after up to {PATIENCE:?}",
        model.describe(INSTANCES)
    );
    let mut report = Report::new("cancels", setting);
    report.totals(&seen.answered, scene.servers.counted().await?.since(counted));
    report.phase("answered, gRPC", &seen.answered.of_kind(GRPC));
    report.phase("answered, HTTP/1.1", &seen.answered.of_kind(HTTP1));
    let arrivals = arrivals(&scene).await?;
    let lag_ms = seen.answered.lag_ms(1.0);
    let on_its_way = ON_ITS_WAY.max(Duration::from_secs_f64(lag_ms / 1e3) * HELD_UP);
    let on_its_way_us = u64::try_from(on_its_way.as_micros())?;
    for (kind, name) in [(GRPC, "HTTP/2 reset"), (HTTP1, "HTTP/1 close")] {
        let gone = seen.gone.get(&kind).map_or(&[][..], Vec::as_slice);
        let (mut never, mut before, mut on_the_way) = (0, 0, 0);
        let mut too_late_us = Vec::new();
        for (x, gone_us) in gone {
            match arrivals.get(&x.to_bits()) {
                None => never += 1,
                Some(arrived_us) if arrived_us <= gone_us => before += 1,
                Some(arrived_us) if *arrived_us <= gone_us + on_its_way_us => on_the_way += 1,
                Some(arrived_us) => too_late_us.push(arrived_us - gone_us),
            }
        }
        too_late_us.sort_unstable();
        report.note(format!(
            "{name}: {} gone; {never} never reached a model server, {before} had, {on_the_way} did \
             within {on_its_way:.0?}",
            gone.len(),
        ));
        report.at_least(format!("{name}: gone while waiting"), f64::from(never), 100.0, "");
        report.at_least(format!("{name}: gone in flight"), f64::from(before), 100.0, "");
        let what = format!("{name}: sent to a model server after the caller had gone");
        report.none(what, too_late_us.len() as u64);
        if let (Some(first), Some(last)) = (too_late_us.first(), too_late_us.last()) {
            report.note(format!("{name}: {} to {} ms after", first / 1000, last / 1000));
        }
    }
    report.none("other calls without the right answer", seen.answered.all().not_right());
    let at_the_end = format!("{}, {QUIET_BOUND:?} later", GAUGES.join(" and "));
    report.at_most(at_the_end, queue + inflight, 0.0, "");
    report.at_most("calls under way at the model servers", under_way, 0.0, "");
    let last = scene.asker.ask(plain(0), 0).await;
    report.hold("one more call", format!("{last:?}"), "Right", last == Outcome::Right);
    Ok(report)
}

/// Calls until enough callers have gone.
async fn callers_that_go(scene: &Scene, rate: f64, arguments: &Arguments) -> Result<Seen, Failure> {
    let mut random = Random::new(!arguments.seed);
    let mut seen = Seen::default();
    let mut calls = JoinSet::new();
    let mut pacer =
        Pacer::start(Gaps::new(rate, arguments.seed), arguments.length(120).min(LONGEST))?;
    let (mut index, mut gone) = (1, 0);
    while let Some(intended) = pacer.due.recv().await {
        while let Some(ended) = calls.try_join_next() {
            gone += seen.note(ended?);
        }
        if gone >= CANCELS {
            break;
        }
        seen.answered.lags.push(intended.elapsed());
        let patience = PATIENCE.mul_f64(random.unit());
        let question = plain(index);
        let kind = if index % 2 == 0 { GRPC } else { HTTP1 };
        let (asker, http) = (Arc::clone(&scene.asker), scene.proxy.http);
        calls.spawn(async move {
            let call = async {
                if kind == GRPC {
                    asker.ask(question, index / 2).await
                } else {
                    ask_http1(http, question).await
                }
            };
            // Leaving this scope drops the call: that is the reset or the close.
            let end = match tokio::time::timeout(patience, call).await {
                Ok(outcome) => End::Answered(outcome),
                Err(_) => End::Gone(unix_time_us()),
            };
            (intended, intended.elapsed(), kind, question.x, end)
        });
        index += 1;
    }
    drop(pacer);
    while let Some(ended) = calls.join_next().await {
        seen.note(ended?);
    }
    Ok(seen)
}

impl Seen {
    /// Notes how a call ended; 1 when its caller has gone.
    fn note(
        &mut self,
        (intended, latency, kind, x, end): (Instant, Duration, u8, f32, End),
    ) -> usize {
        match end {
            End::Answered(outcome) => {
                self.answered.push(intended, latency, kind, outcome);
                0
            }
            End::Gone(at) => {
                self.gone.entry(kind).or_default().push((x, at));
                1
            }
        }
    }
}

/// A call over a connection of its own, which ends with the future.
async fn ask_http1(address: SocketAddr, question: Question) -> Outcome {
    exchange_http1(address, question)
        .await
        .unwrap_or_else(|failure| Outcome::failed("HTTP/1.1", failure.to_string()))
}

async fn exchange_http1(address: SocketAddr, question: Question) -> Result<Outcome, Failure> {
    let Question { x, mark, .. } = question;
    let tensor =
        serde_json::json!({ "name": "x", "datatype": "FP32", "shape": [1, 2], "data": [x, mark] });
    let body = serde_json::json!({ "inputs": [tensor] }).to_string();
    let request = Request::post("/v2/models/linear/infer")
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok::<_, hyper::Error>((head.status, body.collect().await?.to_bytes()))
    };
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    let (status, body) = tokio::select! {
        answer = &mut exchange => answer?,
        // It has ended, and whoever waits for an answer learns why.
        _ = &mut connection => exchange.await?,
    };
    if !status.is_success() {
        let message = String::from_utf8_lossy(&body).into_owned();
        return Ok(Outcome::Failed { reason: format!("HTTP {status}"), message });
    }
    let answer: serde_json::Value = serde_json::from_slice(&body)?;
    let data = answer.pointer("/outputs/0/data").cloned().unwrap_or_default();
    let y: Vec<f32> = serde_json::from_value(data)?;
    if y == question.answer() {
        return Ok(Outcome::Right);
    }
    Ok(Outcome::Wrong(format!("{y:?} to the {question:?}")))
}

/// Waits for the gauges to come to zero: what they and the model servers show in the end.
async fn wait_until_quiet(scene: &Scene) -> Result<[f64; 3], Failure> {
    let give_up = Instant::now() + QUIET_BOUND;
    loop {
        let mut shown = [0.0; 3];
        for (gauge, sum) in GAUGES.iter().zip(&mut shown) {
            let series = scene.proxy.metric(gauge).await?;
            if series.is_empty() {
                return Err(format!("/metrics does not show {gauge}").into());
            }
            *sum = series.iter().map(|(_, value)| value.abs()).sum();
        }
        let [_, _, under_way] = &mut shown;
        *under_way = scene.servers.counted().await?.concurrency as f64;
        if shown == [0.0; 3] || Instant::now() > give_up {
            return Ok(shown);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When each question reached a model server last, by the bits of its x.
async fn arrivals(scene: &Scene) -> Result<HashMap<u32, u64>, Failure> {
    let mut arrivals = HashMap::new();
    for server in scene.servers.iter() {
        for visit in server.journal().await? {
            for x in visit.values {
                let latest: &mut u64 = arrivals.entry(x.to_bits()).or_default();
                *latest = visit.arrived_us.max(*latest);
            }
        }
    }
    Ok(arrivals)
}
