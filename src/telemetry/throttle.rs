//! Log lines that a busy server would say thousands of times.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets so many lines a second through, and counts those that it leaves out.
#[derive(Debug)]
pub struct Throttle {
    per_second: u32,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Throttle {
    /// So many lines a second.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, window: Mutex::default() }
    }

    /// Whether a line may be written now, and if so, how many were left out since the last one.
    pub fn admit(&self) -> Option<u64> {
        let now = Instant::now();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            window.began = Some(now);
            window.said = 0;
        }
        if window.said >= self.per_second {
            window.left_out += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_are_let_through_and_the_others_counted() {
        let throttle = Throttle::new(2);
        let said = || [(); 5].map(|()| throttle.admit());
        assert_eq!(said(), [Some(0), Some(0), None, None, None]);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(throttle.admit(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(said(), [Some(4), Some(0), None, None, None]);
    }
}
