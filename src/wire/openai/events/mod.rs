//! Streams of server-sent events that are relayed: cut into their events, watched for what they
//! cost, and rid of what only we asked for.
//!
//! An event goes on once its last byte has come. A client could make nothing of the part of one, and
//! so a stream can be broken off, or kept alive, between any two pieces of it. Every byte goes on as it
//! came, unless usage is to be hidden: then the event that tells nothing else is left out, and
//! `"usage":null` is cut out of the others.

mod data;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::data::Data;
use self::lines::{Lines, Step};
use super::usage::TokenUsage;
use crate::wire::fields::also_null;

/// Bytes of one event that are waited for; the rest of a longer one goes on as it comes.
const LONGEST_HELD: usize = 1 << 20;

/// The events of one stream.
#[derive(Debug, Default)]
pub struct Events {
    hides_usage: bool,
    lines: Lines,
    /// What has come of an event.
    held: BytesMut,
    /// Whether a part of an event that is too long to be held has gone on.
    is_within: bool,
    /// Whether the event before was left out, and the line feed of its last line with it.
    left_out: bool,
    usage: Option<TokenUsage>,
    /// Events with data, but for the one that says that there are no more.
    told: u64,
}

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    LeaveOut,
    Cut(Range<usize>),
}

impl Events {
    /// The events of a stream; `hides_usage` where the caller did not ask for what they say of usage.
    #[must_use]
    pub fn new(hides_usage: bool) -> Self {
        Self { hides_usage, ..Self::default() }
    }

    /// Takes in what has come, and appends to `out` what goes on.
    pub fn feed(&mut self, data: &Bytes, out: &mut VecDeque<Bytes>) {
        let mut run = Run { data, range: 0..0, out };
        let mut start = 0;
        for (at, &byte) in data.iter().enumerate() {
            let next = at + 1;
            match self.lines.step(byte) {
                Step::Within => continue,
                Step::EventEnds => self.end_event(start..next, &mut run),
                Step::LineFeedAfterIt if self.left_out => {}
                Step::LineFeedAfterIt => run.extend(at..next),
            }
            start = next;
        }
        let rest = start..data.len();
        if rest.is_empty() {
            // Everything belongs to an event that has ended.
        } else if self.is_within {
            run.extend(rest);
        } else if self.held.len() + rest.len() > LONGEST_HELD {
            run.push(self.held.split().freeze());
            run.extend(rest);
            self.is_within = true;
        } else {
            self.held.extend_from_slice(data.get(rest).unwrap_or_default());
        }
        run.flush();
    }

    /// The stream has ended: appends what is left of it.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) {
        let rest = self.held.split().freeze();
        out.extend(self.judged(rest).filter(|rest| !rest.is_empty()));
    }

    /// The stream has broken: what has come of an event is dropped. Returns whether some of it went on
    /// before.
    pub fn break_off(&mut self) -> bool {
        self.held.clear();
        self.is_within
    }

    /// Whether what went on so far ends between two events.
    #[must_use]
    pub fn is_between(&self) -> bool {
        !self.is_within && !self.lines.awaits_line_feed()
    }

    /// What the stream said last of its usage.
    #[must_use]
    pub fn usage(&self) -> Option<TokenUsage> {
        self.usage
    }

    /// How many events have told something. Engines send one for each token, or nearly so.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told
    }

    fn end_event(&mut self, range: Range<usize>, run: &mut Run<'_>) {
        self.left_out = false;
        if self.is_within {
            self.is_within = false;
            self.told += 1;
            return run.extend(range);
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(run.data.get(range).unwrap_or_default());
            let event = self.held.split().freeze();
            let goes_on = self.judged(event);
            self.left_out = goes_on.is_none();
            return goes_on.into_iter().for_each(|event| run.push(event));
        }
        let event = run.data.slice(range.clone());
        match self.judge(&event) {
            Verdict::Keep => run.extend(range),
            Verdict::LeaveOut => self.left_out = true,
            Verdict::Cut(cut) => run.push(without(&event, &cut)),
        }
    }

    /// What goes on of an event.
    fn judged(&mut self, event: Bytes) -> Option<Bytes> {
        match self.judge(&event) {
            Verdict::Keep => Some(event),
            Verdict::LeaveOut => None,
            Verdict::Cut(cut) => Some(without(&event, &cut)),
        }
    }

    fn judge(&mut self, event: &[u8]) -> Verdict {
        self.told += u64::from(tells_something(event));
        if !event.windows(USAGE.len()).any(|window| window == USAGE) {
            return Verdict::Keep;
        }
        let data = Data::of(event);
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(&data.text) else {
            return Verdict::Keep;
        };
        let Some(usage) = chunk.usage else { return Verdict::Keep };
        if usage.get() == "null" {
            let cut = self.hides_usage.then(|| data.field(usage.get())).flatten();
            return cut.map_or(Verdict::Keep, Verdict::Cut);
        }
        self.usage = TokenUsage::parse(usage.get().as_bytes()).or(self.usage);
        // Usage beside choices is what an instance sends unasked.
        let has_choices = chunk.choices.is_none_or(|choices| !is_empty_list(choices.get()));
        if self.hides_usage && !has_choices { Verdict::LeaveOut } else { Verdict::Keep }
    }
}

/// Copied together: an event in two pieces would travel in two.
fn without(event: &Bytes, cut: &Range<usize>) -> Bytes {
    let (before, after) = (event.get(..cut.start), event.get(cut.end..));
    [before.unwrap_or_default(), after.unwrap_or_default()].concat().into()
}

/// Whether an event has data other than `[DONE]`.
fn tells_something(event: &[u8]) -> bool {
    let data = event.split(|byte| matches!(byte, b'\n' | b'\r'));
    let mut data = data.filter_map(|line| line.strip_prefix(b"data:")).map(<[u8]>::trim_ascii);
    data.any(|data| !data.is_empty() && data != b"[DONE]")
}

const USAGE: &[u8] = b"\"usage\"";

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default, deserialize_with = "also_null")]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
}

fn is_empty_list(json: &str) -> bool {
    let inside = json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| inside.trim().is_empty())
}

/// What goes on of the data that has come: slices of it, as few as possible.
struct Run<'a> {
    data: &'a Bytes,
    range: Range<usize>,
    out: &'a mut VecDeque<Bytes>,
}

impl Run<'_> {
    fn extend(&mut self, range: Range<usize>) {
        if self.range.end == range.start && !self.range.is_empty() {
            self.range.end = range.end;
        } else {
            self.flush();
            self.range = range;
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.flush();
        if !piece.is_empty() {
            self.out.push_back(piece);
        }
    }

    fn flush(&mut self) {
        let range = std::mem::take(&mut self.range);
        if !range.is_empty() {
            self.out.push_back(self.data.slice(range));
        }
    }
}
