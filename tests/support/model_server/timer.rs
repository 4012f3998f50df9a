//! Waiting to a tenth of a millisecond, which tokio's timer wheel (1 ms) cannot.
//!
//! One thread sleeps in the kernel until the next due time. Whoever needs to be more precise than
//! the kernel is woken early and spins away the rest, which costs at most [`LEAD`] a wait.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long a sleeping thread and then a sleeping runtime may take to wake up, usually.
const LEAD: Duration = Duration::from_micros(150);

/// Lets the sleeps of this thread end within microseconds of their time instead of the 50 that the
/// kernel may take by default. Where the kernel does not allow it, nothing changes.
pub fn sharpen_this_thread() {
    let thread = std::fs::read_link("/proc/thread-self").ok();
    if let Some(id) = thread.as_deref().and_then(Path::file_name) {
        let _ = std::fs::write(Path::new("/proc").join(id).join("timerslack_ns"), "1000");
    }
}

/// Whose time a server keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The kernel's, to a tenth of a millisecond.
    #[default]
    Kernel,
    /// The runtime's, which may be paused, to a millisecond.
    Runtime,
}

/// Wakes futures at their times.
#[derive(Debug)]
pub(super) enum Timer {
    Precise(Thread),
    Runtime,
}

/// A thread that wakes futures at precise times. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Thread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waits: BinaryHeap<Wait>,
    closed: bool,
}

#[derive(Debug)]
struct Wait {
    due: Instant,
    done: oneshot::Sender<()>,
}

impl Timer {
    pub(super) fn start(clock: Clock) -> std::io::Result<Self> {
        match clock {
            Clock::Kernel => Thread::start().map(Self::Precise),
            Clock::Runtime => Ok(Self::Runtime),
        }
    }

    /// Returns after `time`, as exactly as the clock allows.
    pub(super) async fn exactly_after(&self, time: Duration) {
        match self {
            Self::Precise(thread) => thread.exactly_at(Instant::now() + time).await,
            Self::Runtime => tokio::time::sleep(time).await,
        }
    }

    /// Returns soon after `time`.
    pub(super) async fn after(&self, time: Duration) {
        match self {
            Self::Precise(thread) => thread.until(Instant::now() + time).await,
            Self::Runtime => tokio::time::sleep(time).await,
        }
    }
}

impl Thread {
    fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("model-timer".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                sharpen_this_thread();
                shared.run();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns at `due` to some microseconds. Spins for up to [`LEAD`] on the runtime's thread, so
    /// this is for few waits at a time.
    async fn exactly_at(&self, due: Instant) {
        self.until(due.checked_sub(LEAD).unwrap_or(due)).await;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
    }

    /// Returns soon after `due`, at once when it has passed.
    async fn until(&self, due: Instant) {
        let (done, fired) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waits.push(Wait { due, done });
        }
        self.shared.changed.notify_one();
        // An error means that the timer was dropped: the server is going away with its calls.
        let _ = fired.await;
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while !queue.closed {
            let now = Instant::now();
            while queue.waits.peek().is_some_and(|wait| wait.due <= now) {
                if let Some(wait) = queue.waits.pop() {
                    let _ = wait.done.send(());
                }
            }
            queue = match queue.waits.peek().map(|wait| wait.due.saturating_duration_since(now)) {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// The earliest due time is the greatest, as `BinaryHeap` gives out the greatest first.
impl Ord for Wait {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Wait {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Wait {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Wait {}
