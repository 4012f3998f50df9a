//! What calls and batches leave in a trace.
//!
//! A call has a span from its acceptance to the end of its answer. In it stands, for each batch that it
//! rode in, how long it waited for that. A batch has a span for each instance that was asked: within the
//! call's where it is a batch of one, else of a trace of its own that links to its calls, for it belongs
//! to none of them more than to another. The names are those of OpenTelemetry; for chats, completions and
//! embeddings those of its conventions for generative AI.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::Uri;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanKind, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tokio::time::Instant;

use super::clock::Clock;
use crate::call::{Answer, Call, Fault, ItemsRoute, Served, SharedSpan, Terms, TraceContext, Work};
use crate::lane::{Cause, Member};
use crate::telemetry::{Spans, Via};
use crate::wire::status;

/// What a call asks for, as the name of a span begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operation {
    name: &'static str,
    /// Whether it is one of OpenTelemetry's conventions for generative AI.
    is_generative: bool,
}

impl Operation {
    fn of(work: &Work) -> Self {
        let generative = |name| Self { name, is_generative: true };
        let other = |name| Self { name, is_generative: false };
        match work {
            Work::Infer(_) => other("infer"),
            Work::Relay(request) if request.path == "/v1/chat/completions" => generative("chat"),
            Work::Relay(_) => generative("text_completion"),
            Work::Items(request) => match request.route {
                ItemsRoute::Embeddings | ItemsRoute::Inputs(_) => generative("embeddings"),
                ItemsRoute::Rerank(_) | ItemsRoute::RerankTexts => other("rerank"),
                ItemsRoute::Score(_) | ItemsRoute::ScorePairs(_) => other("score"),
                ItemsRoute::Classify => other("classify"),
                ItemsRoute::Predict | ItemsRoute::PredictInputs => other("predict"),
            },
        }
    }

    /// A span of it, and what every one of them says.
    fn span(self, model: &str, kind: SpanKind) -> SpanBuilder {
        let mut attributes = vec![KeyValue::new("batchwise.model", model.to_owned())];
        if self.is_generative {
            attributes.push(KeyValue::new("gen_ai.operation.name", self.name));
            attributes.push(KeyValue::new("gen_ai.provider.name", "openai"));
            attributes.push(KeyValue::new("gen_ai.request.model", model.to_owned()));
        }
        SpanBuilder::from_name(format!("{} {model}", self.name))
            .with_kind(kind)
            .with_attributes(attributes)
    }
}

/// The span of a call that was just accepted.
pub(super) fn of_call(
    spans: &Spans,
    model: &str,
    work: &Work,
    terms: &Terms,
    via: Via,
    priority: u8,
) -> SharedSpan {
    let Some(tracer) = spans.tracer() else { return SharedSpan::default() };
    let parent = terms.trace.as_ref().map(read).unwrap_or_default();
    let span = Operation::of(work).span(model, SpanKind::Server);
    let span = SharedSpan::new(tracer.build_with_context(span, &parent));
    span.note(|| {
        [
            KeyValue::new("batchwise.protocol", via.label()),
            KeyValue::new("batchwise.priority", i64::from(priority)),
            KeyValue::new("batchwise.request_id", terms.request_id.clone()),
        ]
    });
    if let Work::Relay(request) = work {
        span.note(|| [KeyValue::new("gen_ai.request.stream", request.stream)]);
    }
    span
}

/// Tells how a call ended whose answer, if there is one, is here whole.
pub(super) fn settle(span: &SharedSpan, outcome: &Result<Served, Fault>) {
    match outcome {
        Ok(Served { answer, timing }) => {
            if let Answer::Items(answer) = answer
                && let Some(usage) = answer.usage
            {
                let completion = usage.total_tokens.saturating_sub(usage.prompt_tokens);
                span.note_usage(usage.prompt_tokens, completion);
            }
            span.note(|| [KeyValue::new("batchwise.instance", Arc::clone(&timing.instance))]);
            if !matches!(answer, Answer::Relay(_)) {
                span.settle("ok");
            }
        }
        Err(fault) => {
            let status = status::of_kind(fault.kind);
            if !span.settle(status.reason) {
                return;
            }
            if status.http.is_server_error() {
                span.fail(status.reason, || fault.message.clone());
            } else {
                // What is the caller's fault is none of this server's.
                span.note(|| [KeyValue::new("error.type", status.reason)]);
            }
        }
    }
}

/// A batch as its spans tell of it.
#[derive(Debug)]
pub(super) struct BatchSpans {
    pub(super) spans: Spans,
    pub(super) model: Arc<str>,
    pub(super) rows: u32,
    pub(super) cause: Cause,
}

impl BatchSpans {
    /// The span of one instance being asked.
    pub(super) fn asked(&self, instance: &Arc<str>, members: &[Member<Call>]) -> SharedSpan {
        let (Some(tracer), Some(first)) = (self.spans.tracer(), members.first()) else {
            return SharedSpan::default();
        };
        let calls_in_it = i64::try_from(members.len()).unwrap_or(i64::MAX);
        let calls = members.iter().filter_map(|member| member.payload.span.context());
        let span = Operation::of(&first.payload.work).span(&self.model, SpanKind::Client);
        let (parent, span) = match members {
            [_] => {
                let parent = calls.last().unwrap_or(SpanContext::NONE);
                (Context::new().with_remote_span_context(parent), span)
            }
            _ => {
                let links = calls.map(|call| Link::new(call, Vec::new(), 0)).collect();
                (Context::new(), span.with_links(links))
            }
        };
        let span = SharedSpan::new(tracer.build_with_context(span, &parent));
        span.note(|| {
            [
                KeyValue::new("batchwise.instance", Arc::clone(instance)),
                KeyValue::new("batchwise.batch.rows", i64::from(self.rows)),
                KeyValue::new("batchwise.batch.calls", calls_in_it),
                KeyValue::new("batchwise.batch.reason", self.cause.label()),
            ]
        });
        if let Ok(url) = instance.parse::<Uri>()
            && let (Some(host), Some(port)) = (url.host(), url.port_u16())
        {
            span.note(|| {
                [
                    KeyValue::new("server.address", host.to_owned()),
                    KeyValue::new("server.port", i64::from(port)),
                ]
            });
        }
        span
    }

    /// How long the calls have waited for the batch, each in its own trace.
    pub(super) fn waited(&self, members: &[Member<Call>], clock: Clock, batch: &SharedSpan) {
        let (Some(tracer), Some(batch)) = (self.spans.tracer(), batch.context()) else { return };
        let (now, at) = (Instant::now(), SystemTime::now());
        for Member { ticket, payload: call, .. } in members {
            let Some(parent) = call.span.context().filter(SpanContext::is_sampled) else {
                continue;
            };
            let since = call.returned.unwrap_or_else(|| clock.to_runtime(ticket.arrived));
            let began = at.checked_sub(now.saturating_duration_since(since)).unwrap_or(at);
            let queue = SpanBuilder::from_name("queue")
                .with_kind(SpanKind::Internal)
                .with_start_time(began)
                .with_links(vec![Link::new(batch.clone(), Vec::new(), 0)]);
            let parent = Context::new().with_remote_span_context(parent);
            drop(tracer.build_with_context(queue, &parent));
        }
    }
}

/// The spans of a stream, which go on until its last event.
#[derive(Debug)]
pub(super) struct StreamSpans {
    call: SharedSpan,
    /// That of its instance being asked.
    asked: SharedSpan,
}

impl StreamSpans {
    pub(super) fn new(call: SharedSpan, asked: SharedSpan) -> Self {
        Self { call, asked }
    }

    /// The first event came.
    pub(super) fn begun(&self, after: std::time::Duration) {
        let name = "gen_ai.response.time_to_first_chunk";
        self.call.note(|| [KeyValue::new(name, after.as_secs_f64())]);
    }

    /// The answer is here to its end; it may be that there is none.
    pub(super) fn end(&self, is_refusal: bool) {
        if !is_refusal {
            self.call.settle("ok");
        } else if self.call.settle("upstream_refused") {
            self.call.note(|| [KeyValue::new("error.type", "upstream_refused")]);
        }
    }

    /// It broke off.
    pub(super) fn break_off(&self, error: &(dyn std::error::Error + Send + Sync)) {
        let reason = "upstream_error";
        let words = || Cow::Owned(error.to_string());
        if self.call.settle(reason) {
            self.call.fail(reason, words);
        }
        self.asked.fail(reason, words);
    }
}

impl Drop for StreamSpans {
    fn drop(&mut self) {
        self.call.settle("cancelled");
    }
}

/// The trace that a caller names; that of nobody where it does not make sense.
fn read(trace: &TraceContext) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(trace))
}

struct Headers<'a>(&'a TraceContext);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.0.parent),
            "tracestate" => self.0.state.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
