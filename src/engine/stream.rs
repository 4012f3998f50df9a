//! The body of a relayed answer: forwards frames untouched, measures them, and holds the slot.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::guard::SlotGuard;
use super::spans::StreamSpans;
use crate::call::RelayBody;
use crate::lane::{Blame, Outcome};
use crate::telemetry::ModelMetrics;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a relayed body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Events of a stream, whose timing is worth measuring.
    Events,
    /// An answer in one piece.
    Whole,
    /// Why there is no answer, which says nothing for or against the instance.
    Refusal,
}

/// A relayed body that frees its slot when it ends, fails or is dropped.
struct SlotBody {
    inner: RelayBody,
    slot: Option<SlotGuard>,
    metrics: Arc<ModelMetrics>,
    content: Content,
    accepted: Instant,
    last_event: Option<Instant>,
    spans: StreamSpans,
}

pub(super) fn hold_slot(
    inner: RelayBody,
    slot: SlotGuard,
    metrics: Arc<ModelMetrics>,
    content: Content,
    accepted: Instant,
    spans: StreamSpans,
) -> RelayBody {
    let slot = Some(slot);
    let body = SlotBody { inner, slot, metrics, content, accepted, last_event: None, spans };
    body.boxed_unsync()
}

impl SlotBody {
    fn end(&mut self, error: Option<&BodyError>) {
        match error {
            Some(error) => self.spans.break_off(error.as_ref()),
            None => self.spans.end(self.content == Content::Refusal),
        }
        if let Some(slot) = self.slot.take() {
            slot.done(match (error.is_some(), self.content) {
                (true, _) => Outcome::Failed(Vec::new(), Blame::Broken),
                (false, Content::Refusal) => Outcome::Failed(Vec::new(), Blame::Refused),
                (false, _) => Outcome::Served { batched: true },
            });
        }
    }

    fn note_event(&mut self) {
        if self.content != Content::Events {
            return;
        }
        let now = Instant::now();
        match self.last_event.replace(now) {
            None => {
                self.metrics.time_to_first_token.record((now - self.accepted).as_secs_f64());
                self.spans.begun(now - self.accepted);
                if let Some(slot) = &self.slot {
                    slot.begun();
                }
            }
            Some(last) => self.metrics.inter_token.record((now - last).as_secs_f64()),
        }
    }
}

impl Body for SlotBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            None => self.end(None),
            Some(Err(error)) => self.end(Some(error)),
            Some(Ok(_)) => {
                self.note_event();
                if self.inner.is_end_stream() {
                    self.end(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
