//! What a scenario saw and what it holds the proxy to.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::support::Failure;
use crate::support::records::{Records, Summary};
use crate::support::servers::Counted;

/// The outcome of a scenario.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    #[serde(skip_deserializing)]
    pub(crate) scenario: &'static str,
    skipped: bool,
    setting: String,
    calls: u64,
    failed: u64,
    wrong: u64,
    upstream_calls: u64,
    upstream_rows: u64,
    phases: Vec<Phase>,
    notes: Vec<String>,
    bounds: Vec<Bound>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Phase {
    name: String,
    calls: u64,
    failed: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Bound {
    what: String,
    found: String,
    bound: String,
    kept: bool,
}

/// What became of the bounds of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// There were none.
    Skip,
}

impl Report {
    pub(crate) fn new(scenario: &'static str, setting: String) -> Self {
        Self {
            scenario,
            skipped: false,
            setting,
            calls: 0,
            failed: 0,
            wrong: 0,
            upstream_calls: 0,
            upstream_rows: 0,
            phases: Vec::new(),
            notes: Vec::new(),
            bounds: Vec::new(),
        }
    }

    /// A scenario that could not be played to its end.
    pub(crate) fn broken(scenario: &'static str, failure: &Failure) -> Self {
        let mut report = Self::new(scenario, "broken off".to_owned());
        report.hold("the scenario ends", failure.to_string(), "no error", false);
        report
    }

    /// A scenario that cannot be played here.
    pub(crate) fn skipped(scenario: &'static str, why: impl std::fmt::Display) -> Self {
        Self { skipped: true, ..Self::new(scenario, format!("skipped: {why}")) }
    }

    /// The same, under the name of a scenario: who reads a report knows what was played.
    pub(crate) fn named(self, scenario: &'static str) -> Self {
        Self { scenario, ..self }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match self.bounds.iter().all(|bound| bound.kept) {
            true if self.skipped => Verdict::Skip,
            true => Verdict::Pass,
            false => Verdict::Fail,
        }
    }

    /// How all calls ended, and what reached the model servers.
    pub(crate) fn totals(&mut self, records: &Records, counted: Counted) {
        let all = records.all();
        (self.calls, self.failed, self.wrong) = (all.calls, all.failed, all.wrong);
        (self.upstream_calls, self.upstream_rows) = (counted.calls, counted.rows);
        self.notes.extend(records.failures());
        self.notes.push(format!(
            "calls were sent {:.1} ms late at p99, {:.1} ms at most",
            records.lag_ms(0.99),
            records.lag_ms(1.0)
        ));
    }

    /// A line of the table of latencies.
    pub(crate) fn phase(&mut self, name: impl Into<String>, summary: &Summary) {
        self.phases.push(Phase {
            name: name.into(),
            calls: summary.calls,
            failed: summary.not_right(),
            p50_ms: summary.quantile_ms(0.5),
            p99_ms: summary.quantile_ms(0.99),
            max_ms: summary.max_ms(),
        });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Holds the proxy to a bound.
    pub(crate) fn hold(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        bound: impl Into<String>,
        kept: bool,
    ) {
        let (what, found, bound) = (what.into(), found.into(), bound.into());
        self.bounds.push(Bound { what, found, bound, kept });
    }

    /// Holds the proxy to there being none.
    pub(crate) fn none(&mut self, what: impl Into<String>, found: u64) {
        self.hold(what, found.to_string(), "0", found == 0);
    }

    /// Holds the proxy to a largest value; `unit` is written behind both.
    pub(crate) fn at_most(&mut self, what: impl Into<String>, found: f64, bound: f64, unit: &str) {
        let text = |value: f64| format!("{}{unit}", rounded(value));
        self.hold(what, text(found), format!("<= {}", text(bound)), found <= bound);
    }

    /// Holds the proxy to a smallest value; `unit` is written behind both.
    pub(crate) fn at_least(&mut self, what: impl Into<String>, found: f64, bound: f64, unit: &str) {
        let text = |value: f64| format!("{}{unit}", rounded(value));
        self.hold(what, text(found), format!(">= {}", text(bound)), found >= bound);
    }

    /// Prints it: text for people or one line of JSON for programs.
    pub(crate) fn print(&self, json: bool) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if json {
            let mut line = serde_json::to_value(self)?;
            line["passed"] = (self.verdict() != Verdict::Fail).into();
            writeln!(out, "{line}")?;
            return Ok(out.flush()?);
        }
        writeln!(out, "\n{}: {}", self.scenario, self.setting)?;
        if self.skipped {
            return Ok(out.flush()?);
        }
        writeln!(
            out,
            "  calls {}  failed {}  wrong answers {}  upstream calls {}, rows {}",
            self.calls, self.failed, self.wrong, self.upstream_calls, self.upstream_rows
        )?;
        if !self.phases.is_empty() {
            writeln!(
                out,
                "  {:<28} {:>8} {:>8} {:>9} {:>9} {:>9}",
                "", "calls", "failed", "p50 ms", "p99 ms", "max ms"
            )?;
        }
        for Phase { name, calls, failed, p50_ms, p99_ms, max_ms } in &self.phases {
            writeln!(
                out,
                "  {name:<28} {calls:>8} {failed:>8} {p50_ms:>9.1} {p99_ms:>9.1} {max_ms:>9.1}"
            )?;
        }
        for note in &self.notes {
            writeln!(out, "  . {note}")?;
        }
        for Bound { what, found, bound, kept } in &self.bounds {
            let verdict = if *kept { "PASS" } else { "FAIL" };
            writeln!(out, "  {verdict}  {what}: {found} (bound {bound})")?;
        }
        Ok(out.flush()?)
    }
}

/// One line for each scenario.
pub(crate) fn print_verdicts(verdicts: &[(&'static str, Verdict)]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out)?;
    for (scenario, verdict) in verdicts {
        let verdict = match verdict {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Skip => "SKIP",
        };
        writeln!(out, "{verdict}  {scenario}")?;
    }
    Ok(out.flush()?)
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 {
        return format!("{value:.0}");
    }
    let decimals = if value.abs() < 10.0 { 3 } else { 1 };
    format!("{value:.decimals$}")
}
