//! The one reply that a call is owed.
//!
//! A [`Reply`] is consumed by sending it. A call that was cut into parts has a reply for each; the
//! last part to be answered puts the whole together, and the first fault of any part is the
//! call's. A reply that is dropped unsent answers with an internal fault: a caller is never left
//! waiting, whatever went wrong here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Fault, FaultKind, Served};

type Outcome = Result<Served, Fault>;

/// Where a call's answer arrives.
pub type ReplyReceiver = oneshot::Receiver<Outcome>;

/// The reply that a call, or a part of one, is owed.
#[derive(Debug)]
pub struct Reply(Option<State>);

#[derive(Debug)]
enum State {
    Whole { rows: u32, sender: oneshot::Sender<Outcome> },
    Part { start: u32, rows: u32, parts: Arc<Parts> },
}

/// The parts of one call, keyed by the first row of each.
#[derive(Debug)]
struct Parts {
    rows: u32,
    gathered: Mutex<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    sender: Option<oneshot::Sender<Outcome>>,
    answers: BTreeMap<u32, Served>,
    rows: u32,
}

impl Reply {
    /// A reply for a call of `rows` rows, and where it arrives.
    pub fn new(rows: u32) -> (Self, ReplyReceiver) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(State::Whole { rows, sender })), receiver)
    }

    /// Answers the call, or this part of it.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(state) = self.0.take() {
            state.send(outcome);
        }
    }

    /// Whether this is the reply to a part of a call.
    pub fn is_part(&self) -> bool {
        matches!(self.0, Some(State::Part { .. }))
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        match &self.0 {
            None => true,
            Some(State::Whole { sender, .. }) => sender.is_closed(),
            Some(State::Part { parts, .. }) => {
                let gathered = parts.gathered.lock().unwrap_or_else(PoisonError::into_inner);
                gathered.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
            }
        }
    }

    /// Cuts the first `count` rows off into a reply of their own.
    #[must_use]
    pub fn split_off(&mut self, count: u32) -> Reply {
        let (start, rows, parts) = match self.0.take() {
            None => return Reply(None),
            Some(State::Part { start, rows, parts }) => (start, rows, parts),
            Some(State::Whole { rows, sender }) => {
                let gathered = Gathered { sender: Some(sender), answers: BTreeMap::new(), rows: 0 };
                (0, rows, Arc::new(Parts { rows, gathered: Mutex::new(gathered) }))
            }
        };
        let count = count.min(rows);
        self.0 = Some(State::Part {
            start: start + count,
            rows: rows - count,
            parts: Arc::clone(&parts),
        });
        Reply(Some(State::Part { start, rows: count, parts }))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            let fault = Fault::new(FaultKind::Internal, "the call was dropped without an answer");
            state.send(Err(fault));
        }
    }
}

impl State {
    fn send(self, outcome: Outcome) {
        match self {
            // A caller that has gone does not mind.
            State::Whole { sender, .. } => drop(sender.send(outcome)),
            State::Part { start, rows, parts } => parts.gather(start, rows, outcome),
        }
    }
}

impl Parts {
    fn gather(&self, start: u32, rows: u32, outcome: Outcome) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(fault) => {
                if let Some(sender) = gathered.sender.take() {
                    drop(sender.send(Err(fault)));
                }
                gathered.answers.clear();
            }
            Ok(served) => {
                gathered.answers.insert(start, served);
                gathered.rows += rows;
                if gathered.rows < self.rows {
                    return;
                }
                let Some(sender) = gathered.sender.take() else { return };
                let answers = std::mem::take(&mut gathered.answers);
                let whole = Served::rejoin(answers.into_values()).ok_or_else(|| {
                    Fault::new(FaultKind::Internal, "the parts of the answer do not fit together")
                });
                drop(sender.send(whole));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::{Answer, ItemsAnswer, Timing};
    use super::*;

    fn served(items: &[&'static str]) -> Served {
        let items = items.iter().map(|item| Bytes::from_static(item.as_bytes())).collect();
        Served {
            answer: Answer::Items(ItemsAnswer { items, ..ItemsAnswer::default() }),
            timing: Timing {
                queue: Duration::ZERO,
                batch: Duration::ZERO,
                rows: 1,
                instance: "a".into(),
            },
        }
    }

    fn items(outcome: Outcome) -> Vec<Bytes> {
        match outcome.unwrap().answer {
            Answer::Items(answer) => answer.items,
            other => panic!("not items: {other:?}"),
        }
    }

    #[test]
    fn parts_come_back_in_order_whatever_order_they_were_answered_in() {
        let (mut tail, mut receiver) = Reply::new(4);
        let mut head = tail.split_off(3);
        let first = head.split_off(1);
        tail.send(Ok(served(&["3"])));
        first.send(Ok(served(&["0"])));
        assert!(receiver.try_recv().is_err());
        head.send(Ok(served(&["1", "2"])));
        assert_eq!(items(receiver.try_recv().unwrap()), ["0", "1", "2", "3"]);
    }

    #[test]
    fn the_first_fault_of_a_part_is_the_calls() {
        let (mut tail, mut receiver) = Reply::new(2);
        let head = tail.split_off(1);
        head.send(Err(Fault::new(FaultKind::Upstream, "broke")));
        assert!(tail.is_abandoned());
        tail.send(Ok(served(&["1"])));
        assert_eq!(receiver.try_recv().unwrap().unwrap_err().kind, FaultKind::Upstream);
    }

    #[test]
    fn a_dropped_reply_still_answers() {
        let (reply, mut receiver) = Reply::new(1);
        drop(reply);
        assert_eq!(receiver.try_recv().unwrap().unwrap_err().kind, FaultKind::Internal);
    }
}
