//! What a batcher is to the simulator.

use batchwise::lane::Instant;

/// A batch on its way to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// The system's own name for it.
    pub token: u64,
    /// The index of the instance.
    pub instance: usize,
    /// Its calls, one row each; at least one.
    pub calls: Vec<usize>,
}

/// A call that will have no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The call.
    pub call: usize,
    /// Whether instances failed it; otherwise it was turned away before any tried.
    pub failed: bool,
}

/// The thing under test: takes calls in and says which of them go where together, and when.
///
/// It is driven like the lane: told what happened at `now`, then asked for batches until it has no
/// more, then left alone until the next event or the time of [`System::wake_at`]. It never sees
/// how long a batch will take.
pub trait System {
    /// A call came. Calls are numbered from 0 in the order of their coming.
    fn arrive(&mut self, now: Instant, call: usize);

    /// A batch is back. Where it has failed (`succeeded` is false) its calls are the system's
    /// again: it sends them once more or gives them up by [`System::refused`].
    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool);

    /// The next batch that goes out at `now`.
    fn next(&mut self, now: Instant) -> Option<Dispatch>;

    /// When to ask again though nothing has happened; later than the last `now`.
    fn wake_at(&self) -> Option<Instant>;

    /// The next call that has been given up since the last time.
    fn refused(&mut self) -> Option<Refusal>;

    /// The next batch, by its token, whose calls were called back since the last time: what its
    /// instance answers is nobody's.
    fn recalled(&mut self) -> Option<u64> {
        None
    }
}

impl<S: System + ?Sized> System for Box<S> {
    fn arrive(&mut self, now: Instant, call: usize) {
        (**self).arrive(now, call);
    }

    fn done(&mut self, now: Instant, batch: Dispatch, succeeded: bool) {
        (**self).done(now, batch, succeeded);
    }

    fn next(&mut self, now: Instant) -> Option<Dispatch> {
        (**self).next(now)
    }

    fn wake_at(&self) -> Option<Instant> {
        (**self).wake_at()
    }

    fn refused(&mut self) -> Option<Refusal> {
        (**self).refused()
    }

    fn recalled(&mut self) -> Option<u64> {
        (**self).recalled()
    }
}
