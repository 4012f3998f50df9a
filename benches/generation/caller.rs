//! Callers of chat completions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

use crate::support::Failure;
use crate::support::pace::{Gaps, Random};

/// Asks one proxy.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) proxy: SocketAddr,
}

/// What callers had to wait for, in milliseconds and in order of size.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Until the first event.
    pub(crate) first: Vec<f64>,
    /// Until the last one.
    pub(crate) whole: Vec<f64>,
    /// How many have none of it.
    pub(crate) failed: usize,
}

/// Of times in order of size.
pub(crate) fn percentile(times: &[f64], percent: usize) -> f64 {
    times.get(times.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) priority: u8,
    pub(crate) tokens: usize,
    pub(crate) stream: bool,
}

impl Caller {
    pub(crate) fn of(proxy: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, proxy }
    }

    /// The head of the answer.
    pub(crate) async fn ask(&self, question: Question) -> Result<Response<Incoming>, Failure> {
        let Question { priority, tokens, stream } = question;
        let body = format!(
            "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"stream\":{stream},\"max_tokens\":{tokens}}}"
        );
        let request = Request::post(format!("http://{}/v1/chat/completions", self.proxy))
            .header("content-type", "application/json")
            .header("x-request-priority", priority.to_string())
            .body(Full::new(body.into()))?;
        let response = self.client.request(request).await?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()).into());
        }
        Ok(response)
    }

    /// The times until the first event and until the last one.
    async fn read(
        &self,
        question: Question,
        since: Instant,
    ) -> Result<(Duration, Duration), Failure> {
        let mut body = self.ask(question).await?.into_body();
        let mut first = None;
        let mut last = Bytes::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                first.get_or_insert_with(|| since.elapsed());
                last = data;
            }
        }
        if !last.ends_with(b"data: [DONE]\n\n") {
            return Err("the stream broke off".into());
        }
        Ok((first.ok_or("a stream without events")?, since.elapsed()))
    }

    /// So many callers that ask again as soon as they have their answer, until dropped.
    pub(crate) fn keep_asking(&self, callers: usize, question: Question) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for number in 0..callers {
            let caller = self.clone();
            let mut random = Random::new(number as u64);
            all.spawn(async move {
                loop {
                    // From half to one and a half times as long: equal ones would all end at once.
                    let tokens = (question.tokens as f64 * (0.5 + random.unit())) as usize;
                    let question = Question { tokens, ..question };
                    // Refused under overload is part of the game.
                    if caller.read(question, Instant::now()).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            });
        }
        all
    }

    /// Poisson arrivals for `length`.
    pub(crate) async fn arrivals(
        &self,
        rate: f64,
        seed: u64,
        length: Duration,
        question: Question,
    ) -> Times {
        let began = Instant::now();
        let mut due = began;
        let found = Arc::new(Mutex::new(Times::default()));
        let mut calls = JoinSet::new();
        for gap in Gaps::new(rate, seed) {
            due += gap;
            if due - began > length {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            let (caller, found, since) = (self.clone(), Arc::clone(&found), due);
            calls.spawn(async move {
                let outcome = caller.read(question, since).await;
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok((first, whole)) => {
                        found.first.push(first.as_secs_f64() * 1e3);
                        found.whole.push(whole.as_secs_f64() * 1e3);
                    }
                    Err(_) => found.failed += 1,
                }
            });
        }
        calls.join_all().await;
        let mut times = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        times.first.sort_unstable_by(f64::total_cmp);
        times.whole.sort_unstable_by(f64::total_cmp);
        times
    }
}
