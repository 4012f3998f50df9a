//! Gauges that several owners write in turn, or together.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use metrics::Gauge;

/// A gauge that has one owner at a time: what is written after it was handed over goes nowhere.
#[derive(Debug)]
pub struct OwnedGauge {
    gauge: Gauge,
    owned: AtomicBool,
}

impl OwnedGauge {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, owned: AtomicBool::new(true) }
    }

    /// Sets the value, unless another owner does so now.
    pub fn set(&self, value: f64) {
        if self.owned.load(Ordering::Relaxed) {
            self.gauge.set(value);
        }
    }

    /// From now on another owner sets the value.
    pub(super) fn hand_over(&self) {
        self.owned.store(false, Ordering::Relaxed);
    }
}

/// A gauge that shows the sum of what all its owners say.
#[derive(Debug)]
pub struct SharedGauge {
    gauge: Gauge,
    /// What this owner has added.
    own: AtomicU32,
}

impl SharedGauge {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, own: AtomicU32::new(0) }
    }

    /// One more of this owner.
    pub fn increment(&self) {
        self.own.fetch_add(1, Ordering::Relaxed);
        self.gauge.increment(1.0);
    }

    /// One less of this owner.
    pub fn decrement(&self) {
        self.own.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }

    /// Sets the part of this owner.
    pub fn set(&self, value: u32) {
        let before = self.own.swap(value, Ordering::Relaxed);
        if value > before {
            self.gauge.increment(f64::from(value - before));
        } else if value < before {
            self.gauge.decrement(f64::from(before - value));
        }
    }
}

impl Drop for SharedGauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Metric, Telemetry};
    use super::*;

    fn shown(telemetry: &Telemetry) -> f64 {
        let name = Metric::InstanceHealthy.name();
        let page = telemetry.render();
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    #[test]
    fn who_handed_a_gauge_over_changes_it_no_more() {
        let telemetry = Telemetry::new().unwrap();
        let gauge = || OwnedGauge::new(telemetry.gauge(Metric::InstanceHealthy, vec![]));
        let first = gauge();
        first.set(1.0);
        let second = gauge();
        first.hand_over();
        first.set(7.0);
        assert_eq!(shown(&telemetry), 1.0);
        second.set(2.0);
        assert_eq!(shown(&telemetry), 2.0);
    }

    #[test]
    fn parts_are_summed_and_go_with_their_owners() {
        let telemetry = Telemetry::new().unwrap();
        let gauge = || SharedGauge::new(telemetry.gauge(Metric::InstanceHealthy, vec![]));
        let (first, second) = (gauge(), gauge());
        first.set(5);
        second.set(3);
        first.set(2);
        assert_eq!(shown(&telemetry), 5.0);
        drop(first);
        assert_eq!(shown(&telemetry), 3.0);
    }
}
