//! What a call gets back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;

use super::{Parameters, SharedSpan};
use crate::tensor::{Tensor, join};

/// An instance's answer to one call.
#[derive(Debug)]
pub enum Answer {
    /// To [`Work::Infer`](super::Work::Infer).
    Infer(InferAnswer),
    /// To [`Work::Items`](super::Work::Items).
    Items(ItemsAnswer),
    /// To [`Work::Relay`](super::Work::Relay).
    Relay(RelayAnswer),
}

/// The outputs of an inference over tensors.
#[derive(Clone, Debug, Default)]
pub struct InferAnswer {
    /// The version that answered.
    pub version: String,
    /// Parameters that the model sent back.
    pub parameters: Parameters,
    /// The outputs, in the instance's order.
    pub outputs: Vec<Tensor>,
}

/// The outputs of an inference over items.
#[derive(Clone, Debug, Default)]
pub struct ItemsAnswer {
    /// The raw JSON of each item's output, in the order of the request's items: a member of
    /// `predictions`, or the value of `embedding`.
    pub items: Vec<Bytes>,
    /// What the call cost; embeddings only.
    pub usage: Option<Usage>,
    /// The instance's whole body, when the call was a batch of its own: forwarded byte for byte
    /// where nothing need change.
    pub body: Option<Bytes>,
}

/// Tokens that a call cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens in all.
    pub total_tokens: u64,
}

/// The body of a relayed answer; it frees its slot when it ends or is dropped.
pub type RelayBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A relayed answer.
pub struct RelayAnswer {
    /// The instance's status.
    pub status: StatusCode,
    /// Its headers, without those of the connection.
    pub headers: HeaderMap,
    /// Its body, frame by frame.
    pub body: RelayBody,
    /// Whether what its events say of usage was asked for by us and not by the caller.
    pub hides_usage: bool,
    /// What goes on until its body ends, in a trace.
    pub span: SharedSpan,
}

impl RelayAnswer {
    /// An answer that shows all that its body says.
    pub fn new(status: StatusCode, headers: HeaderMap, body: RelayBody) -> Self {
        Self { status, headers, body, hides_usage: false, span: SharedSpan::default() }
    }
}

impl fmt::Debug for RelayAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Where a call's time went.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From acceptance until its batch was cut.
    pub queue: Duration,
    /// From then until its answer was split off.
    pub batch: Duration,
    /// The rows of its batch.
    pub rows: u32,
    /// The instance that answered.
    pub instance: Arc<str>,
}

/// An answer and where its time went.
#[derive(Debug)]
pub struct Served {
    /// The answer.
    pub answer: Answer,
    /// Where its time went.
    pub timing: Timing,
}

impl Served {
    /// Puts the answers to the parts of one call together, in order.
    ///
    /// The timing is that of the slowest part. `None` when there is no part, or when parts are of
    /// different kinds (relays are never cut).
    pub fn rejoin(parts: impl IntoIterator<Item = Served>) -> Option<Served> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next()?;
        let mut tensors = Vec::new();
        for part in parts {
            whole.timing.queue = whole.timing.queue.max(part.timing.queue);
            whole.timing.batch = whole.timing.batch.max(part.timing.batch);
            whole.timing.rows = whole.timing.rows.max(part.timing.rows);
            match (&mut whole.answer, part.answer) {
                (Answer::Infer(_), Answer::Infer(answer)) => tensors.push(answer.outputs),
                (Answer::Items(all), Answer::Items(answer)) => all.append(answer),
                _ => return None,
            }
        }
        if let Answer::Infer(all) = &mut whole.answer {
            let lists = std::iter::once(&all.outputs).chain(&tensors).map(Vec::as_slice);
            let outputs = join(lists);
            all.outputs = outputs;
        }
        Some(whole)
    }
}

impl ItemsAnswer {
    fn append(&mut self, mut next: ItemsAnswer) {
        self.items.append(&mut next.items);
        self.body = None;
        self.usage = match (self.usage, next.usage) {
            (Some(one), Some(two)) => Some(Usage {
                prompt_tokens: one.prompt_tokens.saturating_add(two.prompt_tokens),
                total_tokens: one.total_tokens.saturating_add(two.total_tokens),
            }),
            (one, two) => one.or(two),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parts_cost_adds_up_whatever_an_instance_claims() {
        let part = |total_tokens| Served {
            answer: Answer::Items(ItemsAnswer {
                usage: Some(Usage { prompt_tokens: 1, total_tokens }),
                ..ItemsAnswer::default()
            }),
            timing: Timing {
                queue: Duration::ZERO,
                batch: Duration::ZERO,
                rows: 1,
                instance: "a".into(),
            },
        };
        let usage = |parts: [u64; 2]| match Served::rejoin(parts.map(part)).unwrap().answer {
            Answer::Items(answer) => answer.usage.unwrap(),
            other => panic!("not items: {other:?}"),
        };
        assert_eq!(usage([2, 3]), Usage { prompt_tokens: 2, total_tokens: 5 });
        assert_eq!(usage([u64::MAX, 3]).total_tokens, u64::MAX);
    }
}
