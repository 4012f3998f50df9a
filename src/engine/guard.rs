//! What must be told even when whoever should tell it is gone.

use async_channel::Sender;

use super::run::Message;
use crate::call::Call;
use crate::lane::{CallId, Event, Outcome, SlotId, Track};

/// Tells the lane that a caller went, unless its reply came first.
#[derive(Debug)]
pub(super) struct LeaveGuard {
    inbox: Sender<Message>,
    track: Track,
    id: CallId,
    armed: bool,
}

impl LeaveGuard {
    pub(super) fn new(inbox: Sender<Message>, track: Track, id: CallId) -> Self {
        Self { inbox, track, id, armed: true }
    }

    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for LeaveGuard {
    fn drop(&mut self) {
        if self.armed {
            // Fails only once the engine has ended, and then there is nothing to leave.
            drop(self.inbox.try_send(Message::Event(Event::Leave(self.track, self.id))));
        }
    }
}

/// Frees the slot of a stream: with how it ended, or as cancelled when it lost its reader.
#[derive(Debug)]
pub(super) struct SlotGuard {
    inbox: Sender<Message>,
    slot: SlotId,
    told: bool,
}

impl SlotGuard {
    pub(super) fn new(inbox: Sender<Message>, slot: SlotId) -> Self {
        Self { inbox, slot, told: false }
    }

    /// Its first event has come.
    pub(super) fn begun(&self) {
        drop(self.inbox.try_send(Message::Event(Event::FirstEvent(self.slot))));
    }

    pub(super) fn done(mut self, outcome: Outcome<Call>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome<Call>) {
        self.told = true;
        drop(self.inbox.try_send(Message::Event(Event::Done(self.slot, outcome))));
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Outcome::Cancelled);
        }
    }
}
