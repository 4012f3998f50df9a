//! What reading a request may cost: memory, which is counted over all callers, and time, which goes
//! on only as long as the caller makes progress.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::call::{Fault, FaultKind};

/// Bytes a second that a caller has to keep up beyond the first time-out: one that sends a byte now
/// and then would else hold the memory of its whole request for as long as it likes.
const SLOWEST: u64 = 1024;
/// When it is worth asking again for memory: calls take about that long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of requests that may be in memory at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    most: AtomicUsize,
    held: AtomicUsize,
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Account { most: AtomicUsize::new(most), held: AtomicUsize::new(0) }))
    }

    /// Bytes in memory now.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// From now on there may be so many; what is held beyond it stays held.
    pub fn set_most(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// A lease of nothing yet.
    pub fn lease(&self) -> Lease {
        Lease { budget: Some(self.clone()), bytes: 0 }
    }

    fn take(&self, bytes: usize) -> Result<(), Fault> {
        let Account { most, held } = &*self.0;
        let most = most.load(Ordering::Relaxed);
        let grown = |now: usize| now.checked_add(bytes).filter(|&sum| sum <= most);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map(drop).map_err(|_| {
            let message = format!(
                "requests take up as much memory as they may ({most} bytes, max_buffered_bytes)"
            );
            Fault::new(FaultKind::BuffersFull, message).with_retry_after(RETRY_AFTER)
        })
    }
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Option<Budget>,
    bytes: usize,
}

impl Lease {
    /// A lease that counts nothing, for what is bounded elsewhere.
    pub fn boundless() -> Self {
        Self { budget: None, bytes: 0 }
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// When the budget has not got them; the lease stays as it was.
    pub fn grow_by(&mut self, bytes: usize) -> Result<(), Fault> {
        let Some(budget) = &self.budget else { return Ok(()) };
        let most = budget.0.most.load(Ordering::Relaxed);
        if bytes > most.saturating_sub(self.bytes) {
            let message = format!(
                "the request would take more memory than there is for all requests together \
                 ({most} bytes, max_buffered_bytes); send less of it at once"
            );
            return Err(Fault::new(FaultKind::TooLarge, message));
        }
        budget.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes as much more as it needs to be of so many bytes in all.
    ///
    /// # Errors
    /// When the budget has not got it; the lease stays as it was.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Fault> {
        self.grow_by(bytes.saturating_sub(self.bytes))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// How a request is read.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Where its memory comes from.
    pub budget: Budget,
    /// How long the caller may send nothing.
    pub idle: Duration,
    /// When the caller stops waiting for the answer.
    pub deadline: Option<Instant>,
}

impl Intake {
    /// The patience with a caller who begins now.
    pub fn patience(&self) -> Patience {
        let now = Instant::now();
        Patience { idle: self.idle, deadline: self.deadline, began: now, last: now, got: 0 }
    }
}

/// How long a caller is waited for that has begun to send.
#[derive(Debug)]
pub struct Patience {
    idle: Duration,
    deadline: Option<Instant>,
    began: Instant,
    last: Instant,
    got: u64,
}

impl Patience {
    /// Something came.
    pub fn got(&mut self, bytes: usize) {
        self.last = Instant::now();
        self.got += bytes as u64;
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn wait<T>(&self, next: impl Future<Output = T>) -> Result<T, Fault> {
        let earned = Duration::from_millis(self.got.saturating_mul(1000) / SLOWEST);
        let progress = (self.last + self.idle).min(self.began + self.idle + earned);
        let until = self.deadline.map_or(progress, |deadline| deadline.min(progress));
        tokio::time::timeout_at(until, next).await.map_err(|_| match self.deadline {
            Some(deadline) if deadline <= progress => Fault::deadline(self.began.elapsed()),
            _ => {
                let (got, idle) = (self.got, self.idle);
                let message = format!(
                    "the body stalled: {got} bytes came, and then nothing, or less than {SLOWEST} \
                     bytes a second, for {idle:?} (read_timeout)"
                );
                Fault::invalid("body", message)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn what_is_leased_is_given_back_whatever_becomes_of_it() {
        let budget = Budget::new(100);
        let mut one = budget.lease();
        one.grow_to(60).unwrap();
        one.grow_to(50).unwrap();
        let mut two = budget.lease();
        two.grow_by(30).unwrap();
        let fault = two.grow_by(11).unwrap_err();
        assert_eq!(fault.kind, FaultKind::BuffersFull);
        assert!(fault.retry_after.is_some());
        assert_eq!(two.grow_by(71).unwrap_err().kind, FaultKind::TooLarge);
        assert_eq!(two.grow_by(usize::MAX).unwrap_err().kind, FaultKind::TooLarge);
        assert_eq!(budget.held(), 90);
        drop(one);
        budget.set_most(60);
        assert!(two.grow_by(31).is_err());
        budget.set_most(100);
        two.grow_by(70).unwrap();
        assert_eq!(budget.held(), 100);
        drop(two);
        assert_eq!(budget.held(), 0);
    }

    fn intake(deadline: Option<Duration>) -> Intake {
        let deadline = deadline.map(|after| Instant::now() + after);
        Intake { budget: Budget::new(0), idle: Duration::from_secs(30), deadline }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stops_is_given_up() {
        let mut patience = intake(None).patience();
        let began = Instant::now();
        patience.got(1 << 20);
        let fault = patience.wait(pending::<()>()).await.unwrap_err();
        assert_eq!((fault.kind, began.elapsed().as_secs()), (FaultKind::InvalidRequest, 30));
        assert!(fault.message.contains("stalled"), "{fault}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_trickles_is_given_up() {
        let mut patience = intake(None).patience();
        let began = Instant::now();
        let next = || tokio::time::sleep(Duration::from_secs(20));
        while patience.wait(next()).await.is_ok() {
            patience.got(1024);
        }
        assert!((30..=35).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_also_while_the_body_is_read() {
        let patience = intake(Some(Duration::from_secs(2))).patience();
        let fault = patience.wait(pending::<()>()).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Deadline);
    }
}
