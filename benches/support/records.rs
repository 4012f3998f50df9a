//! Every call of a run, to be asked afterwards how it went before, during and after something.

use std::time::{Duration, Instant};

use super::asker::Outcome;

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it was meant to be sent.
    pub intended: Instant,
    /// From then until its end.
    pub latency: Duration,
    /// What kind of call it was; the scenario says what the numbers mean.
    pub kind: u8,
    /// How it ended.
    pub end: End,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the right answer.
    Right,
    /// With a wrong one.
    Wrong,
    /// With none; the number of the reason.
    Failed(usize),
}

/// The calls of a run.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// In the order in which they ended.
    pub calls: Vec<Record>,
    /// How late each call was sent: what the load generator itself owes.
    pub lags: Vec<Duration>,
    reasons: Vec<Reason>,
    first_wrong: Option<String>,
}

#[derive(Clone, Debug)]
struct Reason {
    short: String,
    /// What the first call that failed so was told.
    example: String,
}

impl Record {
    /// When it ended.
    pub fn ended(&self) -> Instant {
        self.intended + self.latency
    }
}

impl Records {
    /// Notes a call.
    pub fn push(&mut self, intended: Instant, latency: Duration, kind: u8, outcome: Outcome) {
        let end = match outcome {
            Outcome::Right => End::Right,
            Outcome::Wrong(what) => {
                self.first_wrong.get_or_insert(what);
                End::Wrong
            }
            Outcome::Failed { reason, message } => End::Failed(self.number_of(reason, message)),
        };
        self.calls.push(Record { intended, latency, kind, end });
    }

    fn number_of(&mut self, short: String, example: String) -> usize {
        let known = self.reasons.iter().position(|reason| reason.short == short);
        known.unwrap_or_else(|| {
            self.reasons.push(Reason { short, example });
            self.reasons.len() - 1
        })
    }

    /// Adds those of another run.
    pub fn extend(&mut self, other: Self) {
        for call in other.calls {
            let end = match call.end {
                End::Failed(number) => match other.reasons.get(number) {
                    Some(reason) => {
                        End::Failed(self.number_of(reason.short.clone(), reason.example.clone()))
                    }
                    None => continue,
                },
                end => end,
            };
            self.calls.push(Record { end, ..call });
        }
        self.lags.extend(other.lags);
        if self.first_wrong.is_none() {
            self.first_wrong = other.first_wrong;
        }
    }

    /// The calls that satisfy a condition, counted and measured.
    pub fn those(&self, condition: impl Fn(&Record) -> bool) -> Summary {
        let mut summary = Summary::default();
        for call in self.calls.iter().filter(|call| condition(call)) {
            summary.calls += 1;
            match call.end {
                End::Right => summary.right += 1,
                End::Wrong => summary.wrong += 1,
                End::Failed(_) => summary.failed += 1,
            }
            summary.latencies.push(call.latency);
        }
        summary.latencies.sort_unstable();
        summary
    }

    /// All calls of a kind.
    pub fn of_kind(&self, kind: u8) -> Summary {
        self.those(|call| call.kind == kind)
    }

    /// All calls.
    pub fn all(&self) -> Summary {
        self.those(|_| true)
    }

    /// Calls that had ended by then.
    pub fn before(&self, moment: Instant) -> Summary {
        self.those(|call| call.ended() < moment)
    }

    /// Calls some part of whose life was in between.
    pub fn during(&self, from: Instant, to: Instant) -> Summary {
        self.those(|call| call.ended() >= from && call.intended < to)
    }

    /// Calls that were meant to be sent later.
    pub fn after(&self, moment: Instant) -> Summary {
        self.those(|call| call.intended >= moment)
    }

    /// How late this share (0 to 1) of the calls was sent at most, in milliseconds.
    pub fn lag_ms(&self, share: f64) -> f64 {
        let mut lags = self.lags.clone();
        lags.sort_unstable();
        quantile_ms(&lags, share)
    }

    /// Why calls failed: how many for each reason, with an example.
    pub fn failures(&self) -> Vec<String> {
        let count = |number| {
            let failed = self.calls.iter().filter(|call| call.end == End::Failed(number));
            failed.count()
        };
        let line = |(number, reason): (usize, &Reason)| {
            format!("{} x {} ({})", count(number), reason.short, reason.example)
        };
        let wrong = self.first_wrong.iter().map(|what| format!("wrong answer: {what}"));
        self.reasons.iter().enumerate().map(line).chain(wrong).collect()
    }
}

/// Some of the calls of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many.
    pub calls: u64,
    /// Those with the right answer.
    pub right: u64,
    /// Those with a wrong one.
    pub wrong: u64,
    /// Those without one.
    pub failed: u64,
    latencies: Vec<Duration>,
}

impl Summary {
    /// Calls that did not get the right answer.
    pub fn not_right(&self) -> u64 {
        self.wrong + self.failed
    }

    /// The latency that this share (0 to 1) of all calls kept, in milliseconds; 0 without calls.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        quantile_ms(&self.latencies, share)
    }

    /// The longest latency in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.quantile_ms(1.0)
    }
}

fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (share * last as f64).ceil() as usize;
    sorted.get(index.min(last)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
