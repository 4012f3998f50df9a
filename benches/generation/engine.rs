//! An engine that generates text: it works on a set of sequences, a token for each a step, and what does
//! not fit into the set waits in order of arrival. Tokens cost nothing, time is what it is about.
//!
//! What waits is counted as vLLM counts it: after each step's admission, so that what came meanwhile
//! and finds a place is never among it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::Failure;

/// How an engine is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Sequences that it works on at once.
    pub(crate) places: usize,
    /// What a step takes, and each sequence of it.
    pub(crate) step: Duration,
    pub(crate) per_sequence: Duration,
    /// Whether it publishes its load as vLLM does.
    pub(crate) publishes: bool,
}

impl Settings {
    /// How long a step of so many sequences takes.
    fn step_of(&self, sequences: usize) -> Duration {
        self.step + self.per_sequence * u32::try_from(sequences).unwrap_or(u32::MAX)
    }

    /// The most tokens a second.
    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.places as f64 / self.step_of(self.places).as_secs_f64()
    }
}

/// An engine on a port of its own, in a thread of its own.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _end: mpsc::Sender<Infallible>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    state: Mutex<Sequences>,
}

#[derive(Debug, Default)]
struct Sequences {
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    arrived: usize,
    tokens: u64,
    /// How many waited after the admission of each step.
    waited: Vec<usize>,
    /// The last of them.
    waits: usize,
}

#[derive(Debug)]
struct Sequence {
    left: usize,
    events: mpsc::Sender<Bytes>,
}

/// What an engine has done since it was asked last.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) tokens: u64,
    /// The 95th percentile of how many waited.
    pub(crate) waiting_p95: usize,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default = "one")]
    max_tokens: usize,
    #[serde(default)]
    stream: bool,
}

fn one() -> usize {
    1
}

impl Engine {
    pub(crate) async fn start(settings: Settings) -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { settings, state: Mutex::default() });
        let (end, mut ended) = mpsc::channel::<Infallible>(1);
        let listener = listener.into_std()?;
        let served = Arc::clone(&shared);
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let routes = Router::new()
                    .route("/health", get(async || ""))
                    .route("/metrics", get(metrics))
                    .route("/v1/chat/completions", post(chat))
                    .with_state(Arc::clone(&served));
                tokio::select! {
                    _ = axum::serve(listener, routes) => {}
                    () = served.steps() => {}
                    _ = ended.recv() => {}
                }
            });
        })?;
        Ok(Self { address, shared, _end: end })
    }

    /// Sequences in it, running or waiting.
    pub(crate) fn sequences(&self) -> usize {
        let state = self.shared.lock();
        state.running.len() + state.waiting.len()
    }

    /// Requests that have ever come.
    pub(crate) fn arrived(&self) -> usize {
        self.shared.lock().arrived
    }

    /// What it has done since this was asked last.
    pub(crate) fn done(&self) -> Done {
        let mut state = self.shared.lock();
        let mut waited = std::mem::take(&mut state.waited);
        waited.sort_unstable();
        let waiting_p95 = waited.get(waited.len() * 95 / 100).copied().unwrap_or(0);
        Done { tokens: std::mem::take(&mut state.tokens), waiting_p95 }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sequences> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn steps(&self) {
        let mut due = Instant::now();
        loop {
            let length = {
                let mut state = self.lock();
                // Who is not there to read any more is thrown out, wherever it is.
                state.waiting.retain(|sequence| !sequence.events.is_closed());
                state.running.retain(|sequence| !sequence.events.is_closed());
                while state.running.len() < self.settings.places
                    && let Some(sequence) = state.waiting.pop_front()
                {
                    state.running.push(sequence);
                }
                state.waits = state.waiting.len();
                let waits = state.waits;
                state.waited.push(waits);
                self.settings.step_of(state.running.len())
            };
            due = (due + length).max(Instant::now());
            tokio::time::sleep_until(due.into()).await;
            self.lock().step();
        }
    }
}

impl Sequences {
    fn step(&mut self) {
        for sequence in &mut self.running {
            self.tokens += 1;
            sequence.left -= 1;
            let end = sequence.left == 0;
            let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" x\"}}]}\n\n";
            let event = if end { format!("{token}data: [DONE]\n\n") } else { token.to_owned() };
            // A reader that is slow loses its stream.
            drop(sequence.events.try_send(event.into()));
        }
        self.running.retain(|sequence| sequence.left > 0);
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    if !shared.settings.publishes {
        return String::new();
    }
    let state = shared.lock();
    format!(
        "vllm:num_requests_running{{model_name=\"m\"}} {}.0\nvllm:num_requests_waiting{{model_name=\"m\"}} {}.0\n",
        state.running.len(),
        state.waits
    )
}

async fn chat(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let asked = serde_json::from_slice(&body).unwrap_or(Asked { max_tokens: 1, stream: true });
    let left = asked.max_tokens.max(1);
    let (events, mut tokens) = mpsc::channel(left + 1);
    {
        let mut state = shared.lock();
        state.arrived += 1;
        state.waiting.push_back(Sequence { left, events });
    }
    let mut response = Response::new(if asked.stream {
        Body::from_stream(stream::unfold(tokens, async |mut tokens| {
            let event = tokens.recv().await?;
            Some((Ok::<_, Infallible>(event), tokens))
        }))
    } else {
        while tokens.recv().await.is_some() {}
        Body::from("{\"object\":\"chat.completion\",\"choices\":[]}")
    });
    let content = if asked.stream { "text/event-stream" } else { "application/json" };
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content));
    response
}
