//! The figures of a bench, as a table for people or as JSON lines for programs.

use std::io::Write as _;

use serde_json::{Value, json};

use super::Failure;
use super::bounds::Bound;
use super::measured::Series;

/// One line of a table.
#[derive(Debug)]
pub struct Line<'a> {
    /// The scenario.
    pub scenario: &'static str,
    /// What load was put on.
    pub target: &'a str,
    /// The load, in words.
    pub load: String,
    /// What came of it.
    pub measured: &'a Series,
    /// The same load on the model server directly, in the same run.
    pub direct: Option<&'a Series>,
    /// What the target is held against.
    pub ideal: Ideal,
}

/// The best that can be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ideal {
    /// Unknown.
    None,
    /// Rows a second with full batches.
    Rate(f64),
    /// Latencies of the best policy, to which the path's own time of `path_ms` is added.
    Latency {
        /// Of the policy alone.
        bound: Bound,
        /// What one call alone takes beyond its service time.
        path_ms: f64,
    },
}

/// How figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns.
    Table,
    /// One JSON object a line.
    Json,
}

const HEAD: &str = "target     load                 calls/s  failed  mean ms   p50 ms   p99 ms  \
                    +p50 ms  +p99 ms   batch  CPU us  own us  against the best";

impl Format {
    /// Begins a scenario.
    pub fn title(self, text: &str) -> Result<(), Failure> {
        if self == Self::Table {
            let load = std::fs::read_to_string("/proc/loadavg")?;
            let load = load.split(' ').next().unwrap_or_default();
            writeln!(std::io::stdout(), "\n{text} (load average before: {load})\n{HEAD}")?;
        }
        Ok(())
    }

    /// Prints one line.
    pub fn line(self, line: &Line<'_>) -> Result<(), Failure> {
        let text = match self {
            Self::Table => line.columns(),
            Self::Json => line.json().to_string(),
        };
        let mut out = std::io::stdout();
        writeln!(out, "{text}")?;
        if let (Self::Table, Some(reason)) = (self, &line.measured.pooled.first_failure) {
            writeln!(out, "           first failure: {reason}")?;
        }
        out.flush()?;
        Ok(())
    }
}

impl Line<'_> {
    /// Latency beyond the direct call's, for a share of the calls.
    fn added_ms(&self, share: f64) -> Option<f64> {
        self.measured.added_ms(self.direct?, share)
    }

    fn columns(&self) -> String {
        let Self { target, load, .. } = self;
        let measured = &self.measured.pooled;
        let added = |share| self.added_ms(share).map_or("-".to_owned(), |ms| format!("{ms:.3}"));
        format!(
            "{target:<10} {load:<20} {:>7.0} {:>7} {:>8.3} {:>8.3} {:>8.3} {:>8} {:>8} {:>7.2} \
             {:>7.1} {:>7.1}  {}",
            measured.rate(),
            measured.failed,
            measured.mean_ms(),
            measured.quantile_ms(0.5),
            measured.quantile_ms(0.99),
            added(0.5),
            added(0.99),
            measured.mean_batch(),
            measured.processor_us(),
            measured.own_processor_us(),
            self.against_ideal(),
        )
    }

    fn against_ideal(&self) -> String {
        let measured = &self.measured.pooled;
        match self.ideal {
            Ideal::None => String::new(),
            Ideal::Rate(rate) => {
                format!("{:.1} % of {rate:.0}/s", 100.0 * measured.rate() / rate)
            }
            Ideal::Latency { bound, path_ms } => format!(
                "mean {:.3} x {:.2}, p99 {:.3} x {:.2} (path {path_ms:.2} ms taken off)",
                (measured.mean_ms() - path_ms) / bound.mean_ms,
                bound.mean_ms,
                (measured.quantile_ms(0.99) - path_ms) / bound.p99_ms,
                bound.p99_ms,
            ),
        }
    }

    fn json(&self) -> Value {
        let measured = &self.measured.pooled;
        let mut line = json!({
            "scenario": self.scenario, "target": self.target, "load": self.load,
            "completed": measured.completed(), "failed": measured.failed,
            "calls_per_second": measured.rate(), "mean_ms": measured.mean_ms(),
            "p50_ms": measured.quantile_ms(0.5), "p90_ms": measured.quantile_ms(0.9),
            "p99_ms": measured.quantile_ms(0.99), "added_p50_ms": self.added_ms(0.5),
            "added_p99_ms": self.added_ms(0.99), "mean_batch": measured.mean_batch(),
            "processor_us_per_call": measured.processor_us(),
            "load_generator_us_per_call": measured.own_processor_us(),
            "first_failure": measured.first_failure,
        });
        match self.ideal {
            Ideal::None => {}
            Ideal::Rate(rate) => line["ideal_calls_per_second"] = json!(rate),
            Ideal::Latency { bound, path_ms } => {
                line["bound_mean_ms"] = json!(bound.mean_ms);
                line["bound_p99_ms"] = json!(bound.p99_ms);
                line["path_ms"] = json!(path_ms);
            }
        }
        line
    }
}
