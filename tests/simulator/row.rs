//! One row of the table: a curve, some instances, arrivals at a load; and the list of what misses
//! its bound there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::simulator::reference::{Central, FixedDelay};
use crate::simulator::run::{Outcome, Run, simulate};
use crate::simulator::service::{Curve, Service};
use crate::simulator::{Arrivals, Process, lane, span_from_ms};

/// The instances and the arrivals that policies are compared on; all of them see the same ones.
#[derive(Debug)]
pub(crate) struct Row {
    title: String,
    pub(crate) service: Service,
    pub(crate) arrivals: Arrivals,
    /// Calls a millisecond.
    pub(crate) rate: f64,
    pub(crate) run: Run,
}

impl Row {
    /// `instances` of a curve by its name, under Poisson arrivals of so many per cent of what they
    /// can do.
    pub(crate) fn poisson(curve: &str, instances: usize, load: u32, run: Run) -> Self {
        Self::new(curve, instances, "poisson", load, 0.0, run)
    }

    /// The same with a coefficient of variation of `noise` on service times.
    pub(crate) fn noisy(curve: &str, instances: usize, load: u32, noise: f64, run: Run) -> Self {
        Self::new(curve, instances, "poisson", load, noise, run)
    }

    /// 10 + 0.5 n under arrivals by their name.
    pub(crate) fn arriving(arrivals: &str, instances: usize, load: u32, run: Run) -> Self {
        Self::new("10+0.5", instances, arrivals, load, 0.0, run)
    }

    fn new(curve: &str, instances: usize, arrivals: &str, load: u32, noise: f64, run: Run) -> Self {
        let noisy = if noise > 0.0 { format!(" with noise {noise}") } else { String::new() };
        let title = format!("{curve}{noisy}, instances: {instances}, {arrivals} at {load} %");
        let service = Service::new(Curve::named(curve).unwrap(), instances).with_noise(noise);
        let rate = f64::from(load) / 100.0 * service.capacity();
        let arrivals = Arrivals::new(Process::named(arrivals).unwrap(), rate, 1);
        Self { title, service, arrivals, rate, run }
    }

    /// The shipped policy, told nothing but the largest batch.
    pub(crate) fn shipped(&self) -> Outcome {
        let instances = self.service.instances.len();
        let plan = lane::plan(instances, Some(self.service.curve.largest()));
        let system = lane::Shipped::new(plan, lane::shipped(instances));
        simulate(system, self.arrivals.clone(), self.service.clone(), self.run)
    }

    /// A fixed delay in milliseconds; with none it is what the lane does under its greedy policy,
    /// to the last digit (see `checks`), in a fraction of the time.
    pub(crate) fn delayed(&self, delay_ms: f64) -> Outcome {
        let largest = self.service.curve.largest();
        let rule = FixedDelay { delay: span_from_ms(delay_ms), largest };
        let system = Central::new(rule, self.service.instances.len());
        simulate(system, self.arrivals.clone(), self.service.clone(), self.run)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.title)
    }
}

/// Everything that misses its bound: a change of the policy seldom moves one row alone.
#[derive(Debug, Default)]
pub(crate) struct Misses(Vec<String>);

impl Misses {
    /// Asks for `figure` of `place` to be `value` <= `factor` x `reference`.
    pub(crate) fn check(
        &mut self,
        place: &impl std::fmt::Display,
        figure: &str,
        value: f64,
        factor: f64,
        (reference, of): (f64, &str),
    ) {
        // What is not a number misses every bound.
        let holds = value <= factor * reference;
        if !holds {
            let ratio = value / reference;
            let bound = format!("{ratio:.3} x that of {of}, {reference:.2}, allowed {factor:.2} x");
            self.0.push(format!("{place}: {figure} {value:.2}, {bound}"));
        }
    }

    /// Asks for anything else.
    pub(crate) fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    /// # Panics
    /// With all of them, if there are any.
    #[track_caller]
    pub(crate) fn none(self) {
        assert!(self.0.is_empty(), "missed:\n{}", self.0.join("\n"));
    }
}
