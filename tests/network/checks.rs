//! What has to hold of a run.

use batchwise::engine::Drained;

use crate::ledger::Entry;
use crate::road::Direction;
use crate::scenario::{Fault, HOSTS, Manners, Scenario};
use crate::speech::{Heard, Speech};

/// Microseconds that a request may have been on its way when the proxy was told to stop.
const ON_THE_WAY: u64 = 50_000;
/// Microseconds until a proxy knows that a caller has gone, and that what it sent before has arrived.
const UNTIL_KNOWN: u64 = 12_000;
/// Microseconds that an answer may come after the deadline.
const ANSWER_WAY: u64 = 30_000;

/// What a run has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) stopped_at: Option<u64>,
    pub(crate) drained: Option<Drained>,
    /// Promises that were not kept.
    pub(crate) broken: Vec<String>,
}

impl Run {
    /// Notes a promise that was not kept.
    pub(crate) fn demand(&mut self, kept: bool, what: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(what());
        }
    }
}

/// Checks every call of a run, and how the proxy stopped.
pub(crate) fn judge(run: &mut Run, scenario: &Scenario, entries: &[Entry]) {
    for entry in entries {
        let verdict = entry.verdict(scenario, run.stopped_at);
        run.demand(verdict.is_ok(), || {
            let (id, began) = (entry.call.id, entry.began as f64 / 1e3);
            format!("call {id} of {began} ms: {}", verdict.unwrap_err())
        });
    }
    let drained = run.drained;
    // Whoever is relayed to a server that hangs cannot be served by another.
    let last = scenario.phases.len().saturating_sub(1);
    let held_up = scenario.fault_of(last).is_some_and(Fault::is_quiet);
    let excused = drained.is_some() && held_up && entries.iter().any(Entry::is_relayed);
    run.demand(excused || drained == Some(Drained::Clean), || format!("the drain: {drained:?}"));
}

impl Entry {
    fn verdict(&self, scenario: &Scenario, stopped_at: Option<u64>) -> Result<(), String> {
        let [heard] = self.heard.as_slice() else {
            return Err(format!("not one answer, but {:?}", self.heard));
        };
        let fault = scenario.fault_of(self.phase);
        let once = self.is_sent_once(scenario);
        if once && self.came_twice(scenario, fault) {
            return Err(format!("sent more than once: {:?}", self.arrivals));
        }
        let excused = match heard {
            Heard::Right => !self.call.poison,
            Heard::RowMissing => fault == Some(Fault::LeavesRowsOut),
            Heard::Wrong(_) => fault == Some(Fault::Garbles) && self.is_relayed(),
            Heard::Nothing => {
                self.came_no_more(scenario)?;
                self.took() < 100_000_000
            }
            Heard::Refused(reason) => {
                self.call.poison
                    || self.call.timeout_ms.is_some() && reason.contains("deadline")
                    || self.is_relayed() && fault.is_some()
                    || self.is_after(stopped_at)
                    || self.cannot_be_cut(scenario)
                    || once && fault.is_some()
                    || reason.contains("deadline") && self.was_held_up(scenario)
            }
            Heard::Broken(_) => {
                self.manners == Manners::Reckless
                    || self.is_relayed() && fault.is_some()
                    || self.is_after(stopped_at)
            }
        };
        if !excused {
            return Err(format!("{heard:?} although {fault:?} is all that goes wrong"));
        }
        if let Some(timeout) = self.call.timeout_ms
            && self.took() > timeout * 1000 + ANSWER_WAY
            && *heard != Heard::Nothing
        {
            return Err(format!("an answer after {} us, {timeout} ms were asked", self.took()));
        }
        Ok(())
    }

    /// Whether its answer goes through as its instance sends it.
    fn is_relayed(&self) -> bool {
        matches!(self.call.speech, Speech::Chat | Speech::ChatEvents)
    }

    /// Whether it waited for a host that was quiet, and could not be called back: because it had been
    /// called back from another one before, or because nothing was known yet of a model that had just
    /// changed.
    fn was_held_up(&self, scenario: &Scenario) -> bool {
        let phase = &scenario.phases[self.phase];
        let Some(trouble) = phase.trouble.as_ref().filter(|it| it.fault.is_quiet()) else {
            return false;
        };
        let elsewhere = self.arrivals.iter().any(|(_, host)| *host != HOSTS[trouble.host]);
        phase.reloads() || elsewhere
    }

    /// Whether it is larger than a batch of a model whose rows may not be told apart any more.
    fn cannot_be_cut(&self, scenario: &Scenario) -> bool {
        let seen = (0..=self.phase).any(|it| scenario.fault_of(it) == Some(Fault::LeavesRowsOut));
        seen && self.call.rows > i64::from(scenario.servers.max_batch_size)
    }

    fn is_sent_once(&self, scenario: &Scenario) -> bool {
        scenario.models.iter().any(|model| model.once && model.name == self.call.model)
    }

    /// Whether it was begun again though nobody had answered. What was answered with an error, or with
    /// too few rows, is looked into whatever the model.
    fn came_twice(&self, scenario: &Scenario, fault: Option<Fault>) -> bool {
        let answered = matches!(fault, Some(Fault::Fails | Fault::Garbles | Fault::LeavesRowsOut));
        let searched = answered || scenario.phases[self.phase].poison > 0.0;
        self.call.rows == 1 && self.arrivals.len() > 1 && !searched
    }

    fn is_after(&self, stopped_at: Option<u64>) -> bool {
        stopped_at.is_some_and(|at| self.began + ON_THE_WAY > at)
    }

    fn took(&self) -> u64 {
        self.ended.unwrap_or(u64::MAX).saturating_sub(self.began)
    }

    /// Once its caller has gone, a call comes to no host.
    fn came_no_more(&self, scenario: &Scenario) -> Result<(), String> {
        let trouble = scenario.phases[self.phase].trouble.as_ref();
        for (at, host) in &self.arrivals {
            let delayed = trouble.is_some_and(|trouble| {
                let slow = [Fault::Crumbles, Fault::Cut(Direction::Out, 0)];
                HOSTS[trouble.host] == *host
                    && (matches!(trouble.fault, Fault::Silent(_) | Fault::Far(_))
                        || slow.contains(&trouble.fault))
            });
            let gone = self.ended.unwrap_or(u64::MAX);
            // Who rides in a batch that others still wait for is sent along with it.
            let along = scenario.hedges(&self.call.model)
                && self
                    .arrivals
                    .iter()
                    .any(|(earlier, _)| *earlier <= gone.saturating_add(UNTIL_KNOWN));
            if *at > gone.saturating_add(UNTIL_KNOWN) && !delayed && !along {
                return Err(format!("came to {host} at {at} us, after its caller had gone"));
            }
        }
        Ok(())
    }
}
