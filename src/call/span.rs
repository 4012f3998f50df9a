//! Spans that several hold at once.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanContext, Status};
use opentelemetry_sdk::trace::Span;

use super::TraceContext;

/// A span of OpenTelemetry that ends with the last of those who hold it; none, where nothing is traced.
#[derive(Clone, Debug, Default)]
pub struct SharedSpan(Option<Arc<Mutex<Span>>>);

impl SharedSpan {
    /// The same span, to be held by several.
    pub fn new(span: Span) -> Self {
        Self(Some(Arc::new(Mutex::new(span))))
    }

    /// Where it stands in which trace; `None` where nothing is traced.
    pub fn context(&self) -> Option<SpanContext> {
        self.0.as_deref().map(|span| lock(span).span_context().clone())
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
        if let Some(mut span) = self.0.as_deref().map(lock).filter(|span| span.is_recording()) {
            span.set_attributes(attributes());
        }
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
        if let Some(mut span) = self.0.as_deref().map(lock).filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new("error.type", reason));
            span.set_status(Status::error(words()));
        }
    }
}

/// A span is whole between any two changes of it.
fn lock(span: &Mutex<Span>) -> MutexGuard<'_, Span> {
    span.lock().unwrap_or_else(PoisonError::into_inner)
}
