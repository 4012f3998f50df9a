//! A call: what a caller asks, how it is answered, and why there may be no answer.
//!
//! Three kinds of [`Work`] go one way through batchwise: tensors (Open Inference Protocol), items
//! (JSON lists: KServe v1 `instances`, OpenAI embeddings `input`, documents to be ranked) and relays
//! (OpenAI chat and completions, forwarded whole).

mod answer;
mod fault;
mod reply;
mod span;
mod terms;
mod work;

pub use answer::{Answer, InferAnswer, ItemsAnswer, RelayAnswer, RelayBody, Served, Timing, Usage};
pub use fault::{Fault, FaultKind, Refusal};
pub use reply::{Reply, ReplyReceiver};
pub use span::SharedSpan;
pub use terms::{Terms, TraceContext};
pub use work::{
    InferRequest, ItemsRequest, ItemsRoute, Parameter, Parameters, RelayRequest, RequestedOutput,
    Work,
};

use std::sync::Arc;

use tokio::time::Instant;

use crate::lane::Payload;

/// A call on its way: the work, the terms that it came with, and the one reply that it is owed.
#[derive(Debug)]
pub struct Call {
    /// What is to be done.
    pub work: Work,
    /// Under which terms.
    pub terms: Arc<Terms>,
    /// Where the answer goes.
    pub reply: Reply,
    /// What it leaves in a trace.
    pub span: SharedSpan,
    /// The last fault of an instance, told to the caller when retries are spent.
    pub last_fault: Option<Fault>,
    /// When it came back from that instance, to wait again.
    pub returned: Option<Instant>,
}

impl Call {
    /// A call that nobody has been asked yet.
    pub fn new(work: Work, terms: Arc<Terms>, reply: Reply, span: SharedSpan) -> Self {
        Self { work, terms, reply, span, last_fault: None, returned: None }
    }

    /// It comes back from an instance that failed it.
    pub fn comes_back(&mut self, fault: &Fault) {
        self.last_fault = Some(fault.clone());
        self.returned = Some(Instant::now());
    }
}

impl Payload for Call {
    fn split_off(&mut self, rows: u32) -> Self {
        Call {
            work: self.work.split_off(rows),
            terms: self.terms.clone(),
            reply: self.reply.split_off(rows),
            span: self.span.clone(),
            last_fault: None,
            returned: self.returned,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn signature(&self) -> u64 {
        self.work.signature()
    }
}
