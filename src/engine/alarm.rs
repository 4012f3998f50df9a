//! A timer that is as good as the kernel's.
//!
//! The runtime's timers are good to a millisecond, which for a hold of a few of them is too coarse: a
//! batch that is sent half a millisecond late each time is what the policy was to save.

use tokio::time::Instant;

/// Wakes its engine at a set time.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    #[cfg(target_os = "linux")]
    precise: Option<precise::Timer>,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            precise: keeps_the_kernels_time().then(precise::Timer::new).and_then(Result::ok),
        }
    }

    /// Returns at `at`, now and then a little before.
    ///
    /// Both kinds of timer run, and the first ends it: the runtime's stands in where there is no other.
    pub(super) async fn at(&mut self, at: Instant) {
        let coarse = tokio::time::sleep_until(at);
        #[cfg(target_os = "linux")]
        if let Some(precise) = &mut self.precise {
            tokio::select! {
                () = coarse => {}
                () = precise.at(at) => {}
            }
            return;
        }
        coarse.await;
    }
}

/// Whether the runtime's clock is that of the kernel. One that is paused for a test stands still, or
/// is far ahead: a timer of the kernel would ring at any time but the right one.
#[cfg(target_os = "linux")]
fn keeps_the_kernels_time() -> bool {
    let before = std::time::Instant::now();
    let told = Instant::now().into_std();
    (before..=std::time::Instant::now()).contains(&told)
}

#[cfg(target_os = "linux")]
mod precise {
    use std::io;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;
    use tokio::time::Instant;

    /// A timer of the kernel.
    #[derive(Debug)]
    pub(super) struct Timer {
        /// A descriptor that becomes readable and gives eight bytes: to the runtime, a pipe.
        descriptor: Receiver,
        /// What it is set to.
        set_to: Option<Instant>,
    }

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let descriptor = Receiver::from_owned_fd_unchecked(descriptor)?;
            Ok(Self { descriptor, set_to: None })
        }

        /// Returns at `at`; never, when the kernel does not want to.
        pub(super) async fn at(&mut self, at: Instant) {
            if self.set_to != Some(at) && self.set(at).is_err() {
                self.set_to = None;
                return std::future::pending().await;
            }
            loop {
                if self.descriptor.readable().await.is_err() {
                    std::future::pending::<()>().await;
                }
                match self.descriptor.try_read(&mut [0; 8]) {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => std::future::pending().await,
                }
            }
            self.set_to = None;
        }

        fn set(&mut self, at: Instant) -> io::Result<()> {
            // Zero would stop it.
            let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let once = Itimerspec { it_interval: Timespec::default(), it_value: left };
            timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &once)?;
            self.set_to = Some(at);
            Ok(())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn it_wakes_at_its_time_and_not_before() {
            let mut timer = Timer::new().unwrap();
            for millis in [1, 3] {
                let at = Instant::now() + Duration::from_millis(millis);
                timer.at(at).await;
                assert!(Instant::now() >= at);
            }
        }

        #[tokio::test]
        async fn it_can_be_set_anew_before_its_time() {
            let mut timer = Timer::new().unwrap();
            let late = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                () = timer.at(late) => unreachable!("an hour has passed"),
                () = tokio::task::yield_now() => {}
            }
            let soon = Instant::now() + Duration::from_millis(1);
            timer.at(soon).await;
            assert!((soon..late).contains(&Instant::now()));
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_clock_that_goes_on_by_itself_is_the_kernels() {
        assert!(Alarm::new().precise.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_paused_is_not() {
        assert!(Alarm::new().precise.is_none());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(Alarm::new().precise.is_none());
    }
}
