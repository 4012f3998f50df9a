//! Streams of events on their way to a caller.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};

use super::super::problem;
use crate::call::{Fault, FaultKind, RelayBody, SharedSpan};
use crate::telemetry::ModelMetrics;
use crate::wire::openai::Events;

/// What a caller gets who would else hear nothing: a comment, which clients skip.
const HEARTBEAT: &[u8] = b": keep-alive\n\n";

/// A stream of events, forwarded event by event. When it breaks, the last event is an error and there
/// is no `[DONE]`, so that no client takes what it has for the whole; while nothing comes, comments keep
/// the connection open.
pub(super) struct EventStream {
    inner: Option<RelayBody>,
    events: Events,
    ready: VecDeque<Bytes>,
    heartbeat: Option<Heartbeat>,
    metrics: Arc<ModelMetrics>,
    span: SharedSpan,
}

/// When the next comment is due.
struct Heartbeat {
    interval: Duration,
    /// When something went on last.
    last: Instant,
    /// Made at the first wait, and then used again.
    timer: Option<Pin<Box<Sleep>>>,
}

impl EventStream {
    /// `hides_usage` is as in [`Events::new`]; without a `heartbeat` there are no comments.
    pub(super) fn new(
        inner: RelayBody,
        hides_usage: bool,
        heartbeat: Option<Duration>,
        metrics: Arc<ModelMetrics>,
        span: SharedSpan,
    ) -> Self {
        let heartbeat =
            heartbeat.map(|interval| Heartbeat { interval, last: Instant::now(), timer: None });
        let (events, ready) = (Events::new(hides_usage), VecDeque::new());
        Self { inner: Some(inner), events, ready, heartbeat, metrics, span }
    }

    /// The event that tells of the break, behind whatever is left of the one before.
    fn break_off(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        self.inner = None;
        if self.events.break_off() {
            self.ready.push_back(Bytes::from_static(b"\n\n"));
        }
        let message = format!("the instance's stream broke off: {error}");
        self.ready.push_back(problem::event(&Fault::new(FaultKind::Upstream, message)).into());
    }

    /// Takes in what the instance sent. Returns false when there is nothing yet.
    fn poll_inner(&mut self, context: &mut Context<'_>) -> bool {
        let Some(inner) = self.inner.as_mut() else { return true };
        match Pin::new(inner).poll_frame(context) {
            Poll::Pending => return false,
            Poll::Ready(None) => {
                self.inner = None;
                self.events.finish(&mut self.ready);
            }
            Poll::Ready(Some(Err(error))) => self.break_off(error.as_ref()),
            Poll::Ready(Some(Ok(frame))) => {
                // Trailers say nothing in a stream of events.
                if let Some(data) = frame.data_ref() {
                    self.events.feed(data, &mut self.ready);
                }
            }
        }
        true
    }
}

impl Heartbeat {
    /// Whether nothing went on for so long.
    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let due = self.last + self.interval;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.as_mut().poll(context).is_pending() {
            return false;
        }
        let now = Instant::now();
        let is_due = now >= due;
        self.last = if is_due { now } else { self.last };
        timer.as_mut().reset(self.last + self.interval);
        // Tells the task when to come back.
        let _ = timer.as_mut().poll(context);
        is_due
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            if let Some(data) = this.ready.pop_front() {
                if let Some(heartbeat) = &mut this.heartbeat {
                    heartbeat.last = Instant::now();
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if this.inner.is_none() {
                return Poll::Ready(None);
            }
            if this.poll_inner(context) {
                continue;
            }
            let is_due = this.heartbeat.as_mut().is_some_and(|it| it.is_due(context));
            if is_due && this.events.is_between() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(HEARTBEAT)))));
            }
            return Poll::Pending;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() && self.ready.is_empty()
    }
}

impl Drop for EventStream {
    /// Whatever the end was: what the instance told is counted once.
    fn drop(&mut self) {
        match self.events.usage() {
            Some(usage) => {
                self.metrics.count_tokens(usage.prompt, usage.completion);
                self.span.note_usage(usage.prompt, usage.completion);
            }
            None => self.metrics.count_events(self.events.told()),
        }
    }
}
