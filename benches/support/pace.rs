//! When to send: Poisson arrivals on an absolute schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::model_server::sharpen_this_thread;

/// SplitMix64: the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Numbers from this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number in (0, 1], so that its logarithm is finite.
    pub fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((mixed >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// Gaps of a Poisson process: the same seed gives the same schedule.
#[derive(Clone, Debug)]
pub struct Gaps {
    random: Random,
    mean_seconds: f64,
}

impl Gaps {
    /// Gaps at `rate` arrivals a second.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self { random: Random::new(seed), mean_seconds: 1.0 / rate }
    }
}

impl Iterator for Gaps {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Duration::try_from_secs_f64(-self.random.unit().ln() * self.mean_seconds).ok()
    }
}

/// A thread that names each intended time of sending when it has come. Dropping it ends it.
///
/// A thread that was held up names the times it missed at once: the schedule never shifts, so a
/// slow target cannot slow down its own load.
#[derive(Debug)]
pub struct Pacer {
    /// The intended times; ends with the schedule.
    pub due: UnboundedReceiver<Instant>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Arrivals for `length` from now.
    pub fn start(gaps: Gaps, length: Duration) -> std::io::Result<Self> {
        let (sender, due) = unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("pacer".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || {
                sharpen_this_thread();
                let began = Instant::now();
                let mut intended = began;
                for gap in gaps {
                    intended += gap;
                    if intended > began + length || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let left = intended.saturating_duration_since(Instant::now());
                    if !left.is_zero() {
                        thread::sleep(left);
                    }
                    if sender.send(intended).is_err() {
                        break;
                    }
                }
            }
        })?;
        Ok(Self { due, stop, thread: Some(thread) })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
