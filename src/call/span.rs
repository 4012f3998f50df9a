//! Spans that several hold at once.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanContext, Status};
use opentelemetry_sdk::trace::Span;

use super::TraceContext;

/// A span of OpenTelemetry that ends with the last of those who hold it; none, where nothing is traced.
#[derive(Clone, Debug, Default)]
pub struct SharedSpan(Option<Arc<Mutex<Held>>>);

#[derive(Debug)]
struct Held {
    span: Span,
    /// Whether it says what became of its call.
    is_settled: bool,
}

impl SharedSpan {
    /// The same span, to be held by several.
    pub fn new(span: Span) -> Self {
        Self(Some(Arc::new(Mutex::new(Held { span, is_settled: false }))))
    }

    /// Where it stands in which trace; `None` where nothing is traced.
    pub fn context(&self) -> Option<SpanContext> {
        self.0.as_deref().map(|held| lock(held).span.span_context().clone())
    }

    /// The same as whoever goes on with the trace is told.
    pub fn trace(&self) -> Option<TraceContext> {
        let context = self.context()?;
        let flags = context.trace_flags().to_u8();
        let parent = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        Some(TraceContext { parent, state })
    }

    /// Adds attributes, which are put together only if somebody is to see them.
    pub fn note<const N: usize>(&self, attributes: impl FnOnce() -> [KeyValue; N]) {
        if let Some(mut held) = self.recording() {
            held.span.set_attributes(attributes());
        }
    }

    /// Says what became of the call, by the words of the metrics. The first word counts: whoever holds
    /// it to the end may not know that somebody else has given up. Returns whether it was that.
    pub fn settle(&self, outcome: &'static str) -> bool {
        let Some(mut held) = self.recording().filter(|held| !held.is_settled) else { return false };
        held.is_settled = true;
        held.span.set_attribute(KeyValue::new("batchwise.outcome", outcome));
        true
    }

    /// Adds what the work has cost, in tokens.
    pub fn note_usage(&self, prompt: u64, completion: u64) {
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.note(|| {
            [
                KeyValue::new("gen_ai.usage.input_tokens", tokens(prompt)),
                KeyValue::new("gen_ai.usage.output_tokens", tokens(completion)),
            ]
        });
    }

    /// Marks it as failed, for a reason of a fixed list and in words.
    pub fn fail(&self, reason: &'static str, words: impl FnOnce() -> Cow<'static, str>) {
        if let Some(mut held) = self.recording() {
            held.span.set_attribute(KeyValue::new("error.type", reason));
            held.span.set_status(Status::error(words()));
        }
    }

    fn recording(&self) -> Option<MutexGuard<'_, Held>> {
        self.0.as_deref().map(lock).filter(|held| held.span.is_recording())
    }
}

/// A span is whole between any two changes of it.
fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
