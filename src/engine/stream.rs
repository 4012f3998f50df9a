//! The body of a relayed answer: forwards frames untouched, measures them, and holds the slot.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::guard::SlotGuard;
use crate::call::RelayBody;
use crate::lane::{Blame, Outcome};
use crate::telemetry::ModelMetrics;

type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A relayed body that frees its slot when it ends, fails or is dropped.
struct SlotBody {
    inner: RelayBody,
    slot: Option<SlotGuard>,
    metrics: Arc<ModelMetrics>,
    /// Whether these are events of a stream, whose timing is worth measuring.
    events: bool,
    accepted: Instant,
    last_event: Option<Instant>,
}

pub(super) fn hold_slot(
    inner: RelayBody,
    slot: SlotGuard,
    metrics: Arc<ModelMetrics>,
    events: bool,
    accepted: Instant,
) -> RelayBody {
    let body = SlotBody { inner, slot: Some(slot), metrics, events, accepted, last_event: None };
    body.boxed_unsync()
}

impl SlotBody {
    fn end(&mut self, failed: bool) {
        if let Some(slot) = self.slot.take() {
            slot.done(if failed {
                Outcome::Failed(Vec::new(), Blame::Broken)
            } else {
                Outcome::Served { batched: true }
            });
        }
    }

    fn note_event(&mut self) {
        if !self.events {
            return;
        }
        let now = Instant::now();
        match self.last_event.replace(now) {
            None => {
                self.metrics.time_to_first_token.record((now - self.accepted).as_secs_f64());
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
            None => self.end(false),
            Some(Err(_)) => self.end(true),
            Some(Ok(_)) => {
                self.note_event();
                if self.inner.is_end_stream() {
                    self.end(false);
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
