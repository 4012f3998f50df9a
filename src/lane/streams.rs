//! How many streams an instance takes at once, found out.
//!
//! Engines that generate text batch token by token: they work on a set of sequences, and what does not
//! fit into it waits inside the engine, where nobody knows of priorities. So an instance gets as many
//! streams as its running set holds and hardly any more. How many these are shows in what the engine says
//! of itself, where it publishes how many wait, and else in how long first events take: a stream that
//! has to wait for another one's end takes many times as long as usual.
//!
//! The limit doubles until the first sign of a queue. From then on an engine that publishes is sent one
//! more, after a pause that grows while such attempts fail, and the limit rises only when the engine says
//! that it works on that one, too; elsewhere it rises by one (by a tenth above ten), only when it was
//! reached, and after such a pause. An engine that stopped publishing is believed no more.
//!
//! While urgent streams come, less urgent ones leave some places spare: as many as urgent ones need to
//! find one nearly always, which is learned.

use super::{Instant, Span};

/// Streams of an instance of which nothing is known.
const START: u32 = 16;
/// No more than this are learned.
const MOST: u32 = 1024;
/// Below it the limit moves by one.
const SMALL: u32 = 10;
/// Of the places, the part that is kept spare before it is known how many are needed, and at most.
const SPARE: f64 = 1.0 / 20.0;
const MOST_SPARE: f64 = 1.0 / 2.0;
/// Of the streams that others leave places to, the share that may find none all the same.
const MISSED: f64 = 0.02;
/// Such streams may wait in the engine, which fills a place sooner than anybody can from here.
const AHEAD: u32 = 2;
/// How far one such stream moves what is kept; the first ones more, so many of them by up to ten times as
/// much.
const GAIN: f64 = 0.1;
const FIRST_LEADERS: f64 = 20.0;
/// Where the engine says that it works on more than the limit, that rises by no more than this part.
const BOLD: u32 = 2;
/// So many times an engine says how many wait before something follows from it; or twice, in so long.
const WINDOW: usize = 4;
const LONG_WINDOW: Span = Span::from_secs(1);
/// A first event that takes so many times the usual has waited for a place.
const QUEUED: f64 = 3.0;
/// And so many milliseconds more at least.
const QUEUED_MS: f64 = 20.0;
/// First events in a row that must have waited: one may have had a long prompt.
const STRIKES: usize = 2;
/// Those that take more than this share of what they took before the limit was lowered have not
/// waited for a place.
const STILL: f64 = 0.9;
/// How far one first event moves what is usual, where it was sooner and where it was later.
const DOWN: f64 = 0.1;
const UP: f64 = 0.02;
const FIRST_PAUSE: Span = Span::from_secs(1);
const LONGEST_PAUSE: Span = Span::from_secs(60);
/// What an engine said of itself holds for so long.
const FRESH: Span = Span::from_secs(3);

/// A stream beside those of other levels that come lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rank {
    /// There are none.
    #[default]
    Alone,
    /// It leaves spare places to more urgent ones.
    Yields,
    /// Less urgent ones leave places to it.
    Leads,
}

/// What an engine says of its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Sequences that it works on.
    pub running: u32,
    /// Requests that wait inside it.
    pub waiting: u32,
}

/// What a stream found at its instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) sent: Instant,
    /// The streams that were on their way when it was sent, itself among them.
    pub(super) streams: u32,
    /// How long its first event took; `None` for a reply that came whole.
    pub(super) first_event: Option<Span>,
}

/// The streams that an instance may have at once.
#[derive(Clone, Debug)]
pub(super) struct StreamLimit {
    limit: u32,
    learns: bool,
    /// Until the first sign of a queue.
    doubles: bool,
    /// Whether it was reached since it changed.
    reached: bool,
    changed: Instant,
    /// Streams that found no queue at this limit.
    proven: u32,
    /// Milliseconds that the last streams in a row waited that must have waited for a place.
    strikes: Vec<f64>,
    /// The limit before it was lowered for these, and how long they took.
    lowered: Option<(u32, f64)>,
    /// The most streams at once of which the last one found no queue, since the limit was lowered.
    fit: u32,
    raise_after: Instant,
    pause: Span,
    /// How far the limit rises when what was tried beyond it has a place.
    step: u32,
    /// Whether there were urgent ones among others, at this limit.
    is_led: bool,
    /// Urgent ones so far.
    leaders: f64,
    /// Places to keep spare, once that is known.
    spare: Option<f64>,
    /// Milliseconds until the first event where nothing waits; 0 while that is not known.
    usual: f64,
    load: Option<(Instant, EngineLoad)>,
    /// What it said last, at this limit.
    samples: Vec<Sample>,
}

/// What an engine said of itself, and how many streams it had from here.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    load: EngineLoad,
    streams: u32,
}

impl Sample {
    /// How many of the streams from here it worked on: it may have others, too.
    fn fit(&self) -> u32 {
        let EngineLoad { running, waiting } = self.load;
        let ours = f64::from(self.streams) / f64::from(running.saturating_add(waiting).max(1));
        (f64::from(running) * ours.min(1.0)).round() as u32
    }
}

impl StreamLimit {
    pub(super) fn new(told: Option<u32>) -> Self {
        Self {
            limit: told.unwrap_or(START).max(1),
            learns: told.is_none(),
            doubles: true,
            reached: false,
            changed: Instant::default(),
            proven: 0,
            strikes: Vec::new(),
            lowered: None,
            fit: 0,
            raise_after: Instant::default(),
            pause: FIRST_PAUSE,
            step: 1,
            is_led: false,
            leaders: 0.0,
            spare: None,
            usual: 0.0,
            load: None,
            samples: Vec::with_capacity(WINDOW),
        }
    }

    /// Knows what another one has found out of the same instance, unless somebody said how many.
    pub(super) fn succeed(&mut self, before: &Self) {
        if self.learns && before.learns {
            *self = before.clone();
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Places that are kept for more urgent calls while less urgent ones could fill them all. Only
    /// where there are many: one of few would cost more than it is worth.
    pub(super) fn spare(&self) -> u32 {
        if self.limit < START { 0 } else { self.wanted_spare().round() as u32 }
    }

    fn wanted_spare(&self) -> f64 {
        let limit = f64::from(self.limit);
        self.spare.unwrap_or(SPARE * limit).clamp(1.0, (MOST_SPARE * limit).max(1.0))
    }

    /// A stream goes out, besides so many, that others leave places to. From how few of them find none
    /// follows how many are to be kept (stochastic approximation: Robbins and Monro 1951).
    pub(super) fn led(&mut self, streams: u32) {
        self.is_led = true;
        let missed = if streams >= self.limit { 1.0 } else { 0.0 };
        self.leaders += 1.0;
        let gain = GAIN * (10.0 * FIRST_LEADERS / self.leaders).clamp(1.0, 10.0);
        self.spare = Some(self.wanted_spare() + gain * (missed - MISSED));
    }

    /// Whether a stream finds a place besides so many.
    pub(super) fn has_place(&self, now: Instant, streams: u32, rank: Rank) -> bool {
        let knows_the_engine = self.learns && !self.doubles && self.load(now).is_some();
        match rank {
            Rank::Yields => streams + self.spare() < self.limit,
            Rank::Leads if knows_the_engine => streams < self.limit + AHEAD,
            // What the engine does with one more shows in what it says of itself; where that says nothing,
            // the limit itself is tried.
            _ => {
                let tries = knows_the_engine && self.limit < MOST && now >= self.raise_after;
                streams < self.limit + u32::from(tries)
            }
        }
    }

    /// What the engine said last, unless that is too long ago.
    pub(super) fn load(&self, now: Instant) -> Option<EngineLoad> {
        self.load.filter(|(at, _)| now.since(*at) <= FRESH).map(|(_, load)| load)
    }

    /// A stream was sent; so many are on their way now.
    pub(super) fn sent(&mut self, streams: u32) {
        // Those that leave spare places to others would take them, too. Once the limit is about right it
        // does not rise for their sake: the spare places would be those that the engine has not.
        let spare = if self.doubles { self.spare() } else { 0 };
        self.reached |= streams + spare >= self.limit;
    }

    /// The first event came of a stream, or a whole reply, which tells only that it found a place.
    pub(super) fn answered(&mut self, now: Instant, found: Found) {
        let Found { sent, streams, first_event } = found;
        let waited = first_event.map_or(0.0, |took| took.as_nanos() as f64 / 1e6);
        self.learn_usual(streams, waited);
        // The engine knows better; and what was sent before the last change says nothing of this limit.
        if !self.learns || self.load(now).is_some() || sent < self.changed {
            return;
        }
        if waited > QUEUED * self.usual && waited > self.usual + QUEUED_MS {
            self.strikes.push(waited);
            if self.strikes.len() >= STRIKES {
                self.struck(now);
            }
        } else {
            self.strikes.clear();
            self.lowered = None;
            self.fit = self.fit.max(streams);
            self.proven += 1;
            let round = if self.doubles { 1 } else { self.limit };
            if self.proven >= round {
                self.raise(now, if self.doubles { 1 } else { self.silent_step() });
            }
        }
    }

    /// Several in a row have waited.
    fn struck(&mut self, now: Instant) {
        let waited = self.strikes.iter().sum::<f64>() / self.strikes.len() as f64;
        if let Some((limit, before)) = self.lowered.take()
            && waited > STILL * before
        {
            // With fewer of them it takes no less: that is no queue, but how long it takes now.
            self.usual = waited;
            return self.change(now, limit);
        }
        self.lowered = Some((self.limit, waited));
        let fit = if self.fit > 0 { self.fit } else { self.limit / 2 };
        self.lower(now, fit.min(self.limit - 1));
    }

    /// Follows first events down at once, and up only where nothing can have waited: else a queue that
    /// builds up slowly would become the usual.
    fn learn_usual(&mut self, streams: u32, waited: f64) {
        if waited <= 0.0 {
            return;
        }
        if self.usual == 0.0 {
            self.usual = waited;
        } else if waited < self.usual {
            self.usual += DOWN * (waited - self.usual);
        } else if streams <= self.limit / 2 {
            self.usual += UP * (waited - self.usual).min(self.usual);
        }
    }

    /// The engine says how much it has to do, while `streams` of ours are on their way.
    pub(super) fn tell_load(&mut self, now: Instant, load: EngineLoad, streams: u32) {
        self.load = Some((now, load));
        if !self.learns {
            return;
        }
        let sample = Sample { at: now, load, streams };
        if !self.doubles && load.waiting == 0 && sample.fit() > self.limit {
            // It works on more than was known: what was tried has its places, and more may have.
            let limit = sample.fit().max(self.limit.saturating_add(self.step)).min(MOST);
            self.step = (self.step * 2).clamp(1, (limit / BOLD).max(1));
            self.pause = FIRST_PAUSE;
            return self.change(now, limit);
        }
        self.samples.push(sample);
        let seen = self.samples.len();
        let began = self.samples.first().map_or(now, |sample| sample.at);
        if seen < WINDOW && (seen < 2 || now.since(began) < LONG_WINDOW) {
            return;
        }
        // What has just come may wait for the engine's next step; a queue is what is seen again.
        let queues = || self.samples.iter().filter(|sample| sample.load.waiting > 0);
        let (queued, fit) = (queues().count(), queues().map(Sample::fit).max());
        self.samples.clear();
        match fit.filter(|_| queued * 4 >= seen * 3) {
            Some(fit) if fit < self.limit => self.lower(now, fit),
            Some(_) if self.doubles => self.lower(now, self.limit.saturating_sub(1)),
            Some(_) => {
                // What was tried waits; what is known has its places.
                self.step = 1;
                self.pause = self.pause.times(2).min(LONGEST_PAUSE);
                self.raise_after = now + self.pause;
            }
            // Too many are the worse the more urgent those are that wait behind them.
            None if self.doubles && queued == 0 => {
                self.raise(now, if self.is_led { self.limit / 4 } else { self.limit });
            }
            None => {}
        }
    }

    /// The engine refused a stream, having so many already.
    pub(super) fn refused(&mut self, now: Instant, streams: u32) {
        if self.learns {
            self.lower(now, streams.min(self.limit.saturating_sub(1)));
        }
    }

    /// How far the limit rises where the engine says nothing.
    fn silent_step(&self) -> u32 {
        (self.limit / SMALL).max(1)
    }

    fn lower(&mut self, now: Instant, limit: u32) {
        // A limit that did not hold for long was an attempt that failed.
        let failed = now.since(self.changed) < self.pause.times(2);
        self.pause = if failed { self.pause.times(2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        (self.doubles, self.step) = (false, 1);
        self.raise_after = now + self.pause;
        self.change(now, limit);
    }

    fn raise(&mut self, now: Instant, step: u32) {
        if self.reached && now >= self.raise_after {
            let doubles = self.doubles;
            let fit = if doubles { self.fit } else { self.limit };
            self.change(now, self.limit.saturating_add(step).min(MOST));
            self.fit = fit;
            // Everything that is on its way counts while there was no sign of a queue.
            if doubles {
                self.changed = Instant::default();
            }
        }
    }

    fn change(&mut self, now: Instant, limit: u32) {
        self.limit = limit.max(1);
        self.changed = now;
        (self.reached, self.proven, self.fit, self.is_led) = (false, 0, 0, false);
        self.strikes.clear();
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests;
