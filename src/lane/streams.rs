//! How many streams an instance takes at once, found out.
//!
//! Engines that generate text batch token by token: they work on a set of sequences, and what does not
//! fit into it waits inside the engine, where nobody knows of priorities. So an instance gets as many
//! streams as its running set holds and hardly any more. How many these are shows in what the engine says
//! of itself, where it publishes how many wait, and else in how long first events take: a stream that
//! has to wait for another one's end takes many times as long as usual.
//!
//! The limit doubles until the first sign of a queue; from then on it rises by one (by a tenth above
//! ten), only when it was reached, and after a pause that grows while the attempts fail. An engine that
//! stopped publishing is believed no more, and its limit stays where it is.

use super::{Instant, Span};

/// Streams of an instance of which nothing is known.
const START: u32 = 16;
/// No more than this are learned.
const MOST: u32 = 1024;
/// Below it the limit moves by one.
const SMALL: u32 = 10;
/// Where the engine says what waits, the limit moves by this part of it.
const FINE: u32 = 32;
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
            usual: 0.0,
            load: None,
            samples: Vec::with_capacity(WINDOW),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Places that are kept for more urgent calls while less urgent ones could fill them all. Only
    /// where there are many: one of few would cost more than it is worth.
    pub(super) fn spare(&self) -> u32 {
        if self.limit < START { 0 } else { (self.limit / 13).max(1) }
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
                self.raise(now, if self.doubles { 1 } else { self.step() });
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
        self.samples.push(Sample { at: now, load, streams });
        let seen = self.samples.len();
        let began = self.samples.first().map_or(now, |sample| sample.at);
        if seen < WINDOW && (seen < 2 || now.since(began) < LONG_WINDOW) {
            return;
        }
        // What has just come may wait for the engine's next step; a queue is what is seen again.
        let queues = || self.samples.iter().filter(|sample| sample.load.waiting > 0);
        let (queued, fit) = (queues().count(), queues().map(Sample::fit).max());
        self.samples.clear();
        if let Some(fit) = fit.filter(|_| queued * 4 >= seen * 3) {
            // Those beyond the limit are on their way out already.
            if streams <= self.limit {
                self.lower(now, fit.min(self.limit.saturating_sub(1)));
            }
        } else if queued == 0 {
            let step = if self.doubles { self.limit } else { (self.limit / FINE).max(1) };
            self.raise(now, step);
        }
    }

    /// The engine refused a stream, having so many already.
    pub(super) fn refused(&mut self, now: Instant, streams: u32) {
        if self.learns {
            self.lower(now, streams.min(self.limit.saturating_sub(1)));
        }
    }

    fn step(&self) -> u32 {
        (self.limit / SMALL).max(1)
    }

    fn lower(&mut self, now: Instant, limit: u32) {
        // A limit that did not hold for long was an attempt that failed.
        let failed = now.since(self.changed) < self.pause.times(2);
        self.pause = if failed { self.pause.times(2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        self.doubles = false;
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
        (self.reached, self.proven, self.fit) = (false, 0, 0);
        self.strikes.clear();
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default() + Span::from_millis(millis)
    }

    /// An engine with so many places, always offered more than it takes; what it says of itself is told
    /// every half second where it `publishes`. Returns the limit over the last half of the time.
    fn limits(places: u32, publishes: bool, seconds: u64) -> Vec<u32> {
        let mut limit = StreamLimit::new(None);
        // When each stream that runs ends, and what each that waits found.
        let (mut running, mut waiting) = (Vec::new(), Vec::<(u64, u32)>::new());
        let mut seen = Vec::new();
        for now in 0..seconds * 1000 {
            running.retain(|&end| end > now);
            while running.len() < places as usize && !waiting.is_empty() {
                let (sent, streams) = waiting.remove(0);
                running.push(now + 1500 + 997 * now % 1000);
                let first_event = Some(Span::from_millis(now - sent + 40));
                limit.answered(at(now), Found { sent: at(sent), streams, first_event });
            }
            if publishes && now % 500 == 0 {
                let (running, waiting) = (running.len() as u32, waiting.len() as u32);
                let load = EngineLoad { running, waiting };
                limit.tell_load(at(now), load, running + waiting);
            }
            while ((running.len() + waiting.len()) as u32) < limit.limit() {
                let streams = (running.len() + waiting.len()) as u32 + 1;
                waiting.push((now, streams));
                limit.sent(streams);
            }
            if now > seconds * 500 {
                seen.push(limit.limit());
            }
        }
        seen
    }

    #[test]
    fn the_running_set_is_kept_full_and_the_queue_of_the_engine_short() {
        for publishes in [true, false] {
            for places in [1, 4, 12, 64, 256] {
                let seen = limits(places, publishes, 240);
                let mean =
                    seen.iter().map(|&limit| f64::from(limit)).sum::<f64>() / seen.len() as f64;
                let places = f64::from(places);
                let low = 0.93 * places;
                // A queue that does not even double the time to the first event is not seen.
                let high = if publishes { 1.05 } else { 1.2 } * places + 2.5;
                assert!((low..high).contains(&mean), "{mean} for {places}, publishes: {publishes}");
            }
        }
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_rise() {
        let mut limit = StreamLimit::new(None);
        for now in 0..1000 {
            limit.sent(3);
            let first_event = Some(Span::from_millis(40));
            limit.answered(at(now), Found { sent: at(now), streams: 3, first_event });
            limit.tell_load(at(now), EngineLoad { running: 3, waiting: 0 }, 3);
        }
        assert_eq!(limit.limit(), START);
    }

    #[test]
    fn streams_that_end_meanwhile_are_not_taken_for_places_that_are_missing() {
        let mut limit = StreamLimit::new(None);
        for (waiting, streams) in [(8, 12), (6, 10), (3, 7), (1, 5)] {
            limit.tell_load(at(0), EngineLoad { running: 4, waiting }, streams);
        }
        assert_eq!(limit.limit(), 4);
    }

    #[test]
    fn an_engine_that_others_use_too_has_fewer_places_for_us() {
        let mut limit = StreamLimit::new(None);
        for now in [0, 1250] {
            limit.tell_load(at(now), EngineLoad { running: 8, waiting: 16 }, 12);
        }
        assert_eq!(limit.limit(), 4);
    }

    #[test]
    fn an_engine_that_stopped_publishing_is_believed_no_more() {
        let mut limit = StreamLimit::new(None);
        for _ in 0..WINDOW {
            limit.tell_load(at(0), EngineLoad { running: 7, waiting: 9 }, 16);
        }
        assert_eq!(limit.limit(), 7);
        assert!(limit.load(at(3000)).is_some() && limit.load(at(3001)).is_none());
        limit.sent(7);
        assert_eq!(limit.limit(), 7);
    }

    #[test]
    fn what_is_told_is_not_questioned() {
        let mut limit = StreamLimit::new(Some(5));
        limit.sent(5);
        limit.tell_load(at(0), EngineLoad { running: 1, waiting: 90 }, 5);
        limit.refused(at(1), 5);
        assert_eq!(limit.limit(), 5);
    }
}
