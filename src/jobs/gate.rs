//! Lets so many lines of batches through to a model as it can use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::window::Window;

/// Batches of one model whose lines take turns; the others wait for one of them to end. Each has
/// files open.
const BATCHES_AT_ONCE: usize = 16;

/// The gates of all models, by their names.
#[derive(Debug)]
pub(super) struct Gates {
    most: u32,
    gates: Mutex<BTreeMap<String, Arc<Gate>>>,
}

impl Gates {
    /// Gates that let at most `most` lines through at once, each.
    pub(super) fn new(most: u32) -> Self {
        Self { most, gates: Mutex::default() }
    }

    /// The gate of a model. There are as many as models that batches were accepted for.
    pub(super) fn of(&self, model: &str) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(model.to_owned()).or_insert_with(|| Arc::new(Gate::new(self.most)));
        Arc::clone(gate)
    }
}

/// Lets lines through to one model: one after the other, whichever batch they are of.
#[derive(Debug)]
pub(super) struct Gate {
    /// Held by batches whose lines take turns.
    pub(super) turns: Arc<Semaphore>,
    passes: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// Passes that there are.
    issued: u32,
}

impl Gate {
    fn new(most: u32) -> Self {
        let window = Window::new(most);
        let issued = window.size();
        Self {
            turns: Arc::new(Semaphore::new(BATCHES_AT_ONCE)),
            passes: Arc::new(Semaphore::new(issued as usize)),
            state: Mutex::new(State { window, issued }),
        }
    }

    /// Waits until one more line may go; first come, first served. `None`: never.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Pass> {
        let permit = Arc::clone(&self.passes).acquire_owned().await.ok()?;
        Some(Pass { permit: Some(permit), gate: Arc::clone(self) })
    }

    /// As [`Window::answered`].
    pub(super) fn answered(&self, waited: Duration, took: Duration, shared: bool) {
        self.adjust(|window| window.answered(waited, took, shared));
    }

    /// As [`Window::refused`].
    pub(super) fn refused(&self) {
        self.adjust(Window::refused);
    }

    fn adjust(&self, change: impl FnOnce(&mut Window)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.window);
        let more = state.window.size().saturating_sub(state.issued);
        state.issued += more;
        self.passes.add_permits(more as usize);
    }

    /// Whether a pass that comes back is one too many.
    fn withdraws(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let too_many = state.issued > state.window.size();
        state.issued -= u32::from(too_many);
        too_many
    }
}

/// The right to have one line wait or run.
#[derive(Debug)]
pub(super) struct Pass {
    permit: Option<OwnedSemaphorePermit>,
    gate: Arc<Gate>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.gate.withdraws()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// How many lines may go now.
    fn open(gate: &Arc<Gate>) -> usize {
        let mut passes = Vec::new();
        while let Some(Some(pass)) = gate.enter().now_or_never() {
            passes.push(pass);
        }
        passes.len()
    }

    #[tokio::test]
    async fn as_many_go_as_the_window_says() {
        let gate = Gates::new(8).of("m");
        assert_eq!(open(&gate), 4);
        for _ in 0..100 {
            gate.answered(Duration::ZERO, Duration::from_millis(1), true);
        }
        assert_eq!(open(&gate), 8);
        let held = gate.enter().await;
        gate.refused();
        assert_eq!(open(&gate), 7, "those that are out are taken back as they return");
        assert_eq!(open(&gate), 3);
        drop(held);
        assert_eq!(open(&gate), 4);
    }
}
