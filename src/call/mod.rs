//! A call: what a caller asks, how it is answered, and why there may be no answer.
//!
//! Three kinds of [`Work`] go one way through batchwise: tensors (Open Inference Protocol), items
//! (JSON lists: KServe v1 `instances`, OpenAI embeddings `input`, documents to be ranked) and relays
//! (OpenAI chat and completions, forwarded whole).

mod answer;
mod fault;
mod reply;
mod terms;
mod work;

pub use answer::{Answer, InferAnswer, ItemsAnswer, RelayAnswer, RelayBody, Served, Timing, Usage};
pub use fault::{Fault, FaultKind, Refusal};
pub use reply::{Reply, ReplyReceiver};
pub use terms::{Terms, TraceContext};
pub use work::{
    InferRequest, ItemsRequest, ItemsRoute, Parameter, Parameters, RelayRequest, RequestedOutput,
    Work,
};

use crate::lane::Payload;

/// A call on its way: the work, the terms that it came with, and the one reply that it is owed.
#[derive(Debug)]
pub struct Call {
    /// What is to be done.
    pub work: Work,
    /// Under which terms.
    pub terms: std::sync::Arc<Terms>,
    /// Where the answer goes.
    pub reply: Reply,
    /// The last fault of an instance, told to the caller when retries are spent.
    pub last_fault: Option<Fault>,
}

impl Payload for Call {
    fn split_off(&mut self, rows: u32) -> Self {
        Call {
            work: self.work.split_off(rows),
            terms: self.terms.clone(),
            reply: self.reply.split_off(rows),
            last_fault: None,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn signature(&self) -> u64 {
        self.work.signature()
    }
}
