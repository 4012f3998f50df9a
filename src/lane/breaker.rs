//! A circuit breaker: keeps batches away from an instance that fails them.
//!
//! Two signals trip it, because each misses what the other sees. A run of failures catches an
//! instance that broke just now; at a high rate it would never catch one that fails every second
//! batch, which the windowed ratio does, once the window holds enough batches to mean anything. The
//! window is exact (buckets, no decay), so a burst weighs what it is.
//!
//! ```text
//!            run or ratio of failures                 the time is up
//!   Closed ---------------------------> Open ------------------------> HalfOpen
//!     ^                                  ^  a quarter of the time out      |
//!     |                                  +---------------- failure --------+
//!     +-------------- success: small batches first, doubling --------------+
//! ```
//!
//! Half-open admits a bounded number of small probes, not everybody. A caller's own error and
//! back-pressure are neutral: they neither open nor close anything.

use super::{Instant, Span};

const BUCKETS: usize = 10;
/// What is out for a while stays out for longer by one in so many: whoever comes back waits no longer
/// than a quarter of the time that it was gone, and who stays away is asked ever more rarely.
const OUT_SHARE: u64 = 4;
/// Batches of so many rows served after a probe mean that the instance is trusted again.
const RAMPED: u32 = 1024;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPlan {
    /// The span over which failures are counted.
    pub window: Span,
    /// Batches that the window must hold before the ratio counts.
    pub minimum_volume: u32,
    /// The share of failures that trips.
    pub failure_ratio: f64,
    /// The run of failures that trips.
    pub consecutive_failures: u32,
    /// How long it stays open at least; with each failed probe a quarter of the time that it has been
    /// out, where that is longer.
    pub open_for: Span,
    /// How long it stays open at most.
    pub max_open_for: Span,
    /// Batches admitted at once while half-open.
    pub half_open_probes: u32,
    /// Where a smaller share of the instances is let through, those that are out are probed every
    /// `open_for`, however long they have been out: an outage of many is more likely to be the doing
    /// of something that they share, and to end for all of them at once.
    pub panic_threshold: f64,
}

impl Default for BreakerPlan {
    fn default() -> Self {
        Self {
            window: Span::from_secs(10),
            minimum_volume: 10,
            failure_ratio: 0.5,
            consecutive_failures: 3,
            open_for: Span::from_millis(250),
            max_open_for: Span::from_secs(10),
            half_open_probes: 1,
            panic_threshold: 0.5,
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Batches of up to so many rows.
    Batches(u32),
    /// One batch of one call, to see how it fares.
    Probe,
    /// Nothing before this time.
    Nothing(Instant),
}

/// The state of a breaker, as metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the states are explained on the module")]
pub enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

/// A circuit breaker.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    plan: BreakerPlan,
    state: State,
    window: Window,
    run: u32,
    /// When it opened; until it is closed for good.
    out_since: Option<Instant>,
    /// Whether too few other instances are let through.
    panic: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `ramp`: the most rows of a batch while trust is being regained.
    Closed {
        ramp: u32,
    },
    Open {
        /// In a panic.
        until_at_least: Instant,
        until: Instant,
    },
    HalfOpen {
        probes: u32,
    },
}

impl Breaker {
    pub(super) fn new(plan: BreakerPlan) -> Self {
        Self {
            plan,
            state: State::Closed { ramp: u32::MAX },
            window: Window::default(),
            run: 0,
            out_since: None,
            panic: false,
        }
    }

    /// Goes on where another one of the same instance has got to. The probes that are on their way
    /// tell only that one how they fare.
    pub(super) fn succeed(&mut self, now: Instant, before: &Self) {
        *self = Self { plan: self.plan, ..before.clone() };
        if before.plan.window != self.plan.window {
            self.window = Window::default();
        }
        if matches!(self.state, State::HalfOpen { .. }) {
            self.state = State::Open { until_at_least: now, until: now };
        }
    }

    /// Whether too few instances are let through to leave this one alone for long.
    pub(super) fn set_panic(&mut self, panic: bool) {
        self.panic = panic;
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// How long it has been since it opened and was not closed for good.
    pub(super) fn out_for(&self, now: Instant) -> Span {
        self.out_since.map_or(Span::ZERO, |since| now.since(since))
    }

    pub(super) fn admission(&self, now: Instant) -> Admission {
        match self.state {
            State::Closed { ramp } => Admission::Batches(ramp),
            State::Open { .. } if now < self.probed_at() => Admission::Nothing(self.probed_at()),
            State::Open { .. } => Admission::Probe,
            State::HalfOpen { probes } if probes < self.plan.half_open_probes => Admission::Probe,
            // A probe is on its way: its outcome, not a time, decides.
            State::HalfOpen { .. } => Admission::Nothing(now + self.plan.max_open_for),
        }
    }

    /// A batch goes out. Returns whether it is a probe.
    pub(super) fn sent(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            // Open => HalfOpen
            State::Open { .. } => {
                let due = now >= self.probed_at();
                if due {
                    self.state = State::HalfOpen { probes: 1 };
                }
                due
            }
            State::HalfOpen { probes } => {
                self.state = State::HalfOpen { probes: probes + 1 };
                true
            }
        }
    }

    pub(super) fn succeeded(&mut self, now: Instant, probe: bool) {
        self.run = 0;
        match self.state {
            State::Closed { ramp } => {
                self.window.add(now, self.plan.window, false);
                if ramp < RAMPED {
                    self.state = State::Closed { ramp: ramp * 2 };
                } else {
                    self.state = State::Closed { ramp: u32::MAX };
                    self.out_since = None;
                }
            }
            // HalfOpen => Closed
            State::HalfOpen { .. } if probe => {
                self.window = Window::default();
                self.state = State::Closed { ramp: 2 };
            }
            // A batch sent before it opened says nothing about now.
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }

    /// Returns whether this opened it.
    pub(super) fn failed(&mut self, now: Instant, probe: bool) -> bool {
        self.run = self.run.saturating_add(1);
        match self.state {
            State::Closed { .. } => {
                self.window.add(now, self.plan.window, true);
                let (failures, volume) = self.window.count();
                let ratio = f64::from(failures) / f64::from(volume.max(1));
                let trips = self.run >= self.plan.consecutive_failures
                    || volume >= self.plan.minimum_volume && ratio >= self.plan.failure_ratio;
                if trips {
                    self.open(now);
                }
                trips
            }
            // HalfOpen => Open
            State::HalfOpen { .. } if probe => {
                self.open(now);
                true
            }
            State::HalfOpen { .. } | State::Open { .. } => false,
        }
    }

    /// Opens at once: the instance cannot be reached at all.
    pub(super) fn trip(&mut self, now: Instant) -> bool {
        self.run = self.run.saturating_add(1);
        let was_open = matches!(self.state, State::Open { .. });
        if !was_open {
            self.open(now);
        }
        !was_open
    }

    /// Closes for good: whoever says so knows better.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.plan);
    }

    /// A batch came back that says nothing about the instance.
    pub(super) fn neutral(&mut self, probe: bool) {
        if let State::HalfOpen { probes } = self.state
            && probe
        {
            self.state = State::HalfOpen { probes: probes.saturating_sub(1) };
        }
    }

    fn open(&mut self, now: Instant) {
        let out_for = now.since(*self.out_since.get_or_insert(now));
        let share = Span::from_nanos(out_for.as_nanos() / OUT_SHARE);
        let span = share.max(self.plan.open_for).min(self.plan.max_open_for);
        let until_at_least = now + self.plan.open_for.min(self.plan.max_open_for);
        self.state = State::Open { until_at_least, until: now + span };
    }

    /// When an open one lets a probe through.
    fn probed_at(&self) -> Instant {
        match self.state {
            State::Open { until_at_least, .. } if self.panic => until_at_least,
            State::Open { until, .. } => until,
            State::Closed { .. } | State::HalfOpen { .. } => Instant::default(),
        }
    }
}

/// Failures and batches over the last span, in buckets.
#[derive(Clone, Debug, Default)]
struct Window {
    buckets: [(u32, u32); BUCKETS],
    newest: u64,
}

impl Window {
    fn add(&mut self, now: Instant, span: Span, failure: bool) {
        let width = (span.as_nanos() / BUCKETS as u64).max(1);
        let tick = now.as_nanos() / width;
        let passed = tick.saturating_sub(self.newest).min(BUCKETS as u64);
        for stale in 0..passed {
            self.bucket(tick - stale).clone_from(&(0, 0));
        }
        self.newest = self.newest.max(tick);
        let (failures, volume) = self.bucket(tick);
        *failures += u32::from(failure);
        *volume += 1;
    }

    fn bucket(&mut self, tick: u64) -> &mut (u32, u32) {
        &mut self.buckets[(tick % BUCKETS as u64) as usize]
    }

    fn count(&self) -> (u32, u32) {
        self.buckets.iter().fold((0, 0), |sum, bucket| (sum.0 + bucket.0, sum.1 + bucket.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default() + Span::from_millis(millis)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(BreakerPlan::default());
        for _ in 0..3 {
            breaker.failed(at(0), false);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn a_run_of_failures_opens() {
        assert_eq!(opened().admission(at(249)), Admission::Nothing(at(250)));
    }

    #[test]
    fn a_ratio_opens_only_with_enough_volume() {
        let mut breaker = Breaker::new(BreakerPlan::default());
        for round in 0..4 {
            assert!(!breaker.failed(at(round), false));
            breaker.succeeded(at(round), false);
        }
        assert!(!breaker.failed(at(5), false));
        assert!(breaker.failed(at(6), false), "6 of 10 failed");
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut breaker = Breaker::new(BreakerPlan::default());
        for round in 0..4 {
            breaker.failed(at(round), false);
            breaker.succeeded(at(round), false);
        }
        for _ in 0..9 {
            breaker.succeeded(at(60_000), false);
        }
        assert!(!breaker.failed(at(60_001), false));
        assert_eq!(breaker.window.count(), (1, 10));
    }

    #[test]
    fn half_open_admits_a_bounded_number_of_probes() {
        let mut breaker = opened();
        assert_eq!(breaker.admission(at(250)), Admission::Probe);
        assert!(breaker.sent(at(250)));
        assert!(matches!(breaker.admission(at(250)), Admission::Nothing(_)));
        breaker.neutral(true);
        assert_eq!(breaker.admission(at(250)), Admission::Probe);
    }

    #[test]
    fn the_longer_it_is_out_the_more_rarely_it_is_probed() {
        let mut breaker = opened();
        let (mut now, mut probes) = (at(0), 0);
        while now < at(60_000) {
            let Admission::Nothing(until) = breaker.admission(now) else {
                assert!(breaker.sent(now));
                assert!(breaker.failed(now, true));
                probes += 1;
                continue;
            };
            let out_for = until.since(at(0)).as_nanos();
            assert!(until.since(now) <= BreakerPlan::default().max_open_for);
            assert!(until.since(now).as_nanos() <= (out_for / 4).max(250_000_000));
            now = until;
        }
        assert!((20..40).contains(&probes), "{probes} probes in a minute");
    }

    #[test]
    fn in_a_panic_it_is_probed_as_often_as_at_first() {
        let mut breaker = opened();
        let mut now = at(0);
        for _ in 0..40 {
            now = now + BreakerPlan::default().open_for;
            breaker.set_panic(false);
            let patient = breaker.admission(now);
            breaker.set_panic(true);
            assert_eq!(breaker.admission(now), Admission::Probe, "{patient:?} without");
            assert!(breaker.sent(now) && breaker.failed(now, true));
        }
        breaker.set_panic(false);
        assert!(matches!(breaker.admission(now + Span::from_secs(1)), Admission::Nothing(_)));
    }

    #[test]
    fn trust_is_regained_by_growing_batches() {
        let mut breaker = opened();
        breaker.sent(at(250));
        breaker.succeeded(at(260), true);
        assert_eq!(breaker.admission(at(260)), Admission::Batches(2));
        breaker.succeeded(at(261), false);
        assert_eq!(breaker.admission(at(261)), Admission::Batches(4));
        for _ in 0..9 {
            breaker.succeeded(at(262), false);
        }
        assert_eq!(breaker.admission(at(262)), Admission::Batches(u32::MAX));
    }

    #[test]
    fn an_operator_can_close_it() {
        let mut breaker = opened();
        breaker.reset();
        assert_eq!(breaker.admission(at(1)), Admission::Batches(u32::MAX));
        assert_eq!(breaker.out_for(at(1)), Span::ZERO);
    }

    #[test]
    fn what_was_sent_before_it_opened_does_not_close_it() {
        let mut breaker = opened();
        breaker.succeeded(at(10), false);
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
