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
            let mean = seen.iter().map(|&limit| f64::from(limit)).sum::<f64>() / seen.len() as f64;
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

/// An engine that works in steps and admits between them, with urgent streams among more bulk than it
/// can bear. What it says of itself is told four times a second.
struct Mixed {
    limit: StreamLimit,
    places: usize,
    /// Tokens left, and of an urgent one when it came; those that run and those that wait.
    running: Vec<(u32, Option<f64>)>,
    waiting: Vec<(u32, Option<f64>)>,
    /// Urgent ones that wait here.
    held: Vec<f64>,
    random: u64,
}

/// What became of it.
struct Became {
    /// Tokens, of the most that there could be.
    used: f64,
    /// Of the urgent ones, the share that the engine did not take in between its next two steps.
    late: f64,
}

impl Mixed {
    const STEP_MS: f64 = 22.0;
    const URGENT_TOKENS: u32 = 20;
    const URGENT_SHARE: f64 = 0.1;

    fn new(places: usize) -> Self {
        let (running, waiting, held) = (Vec::new(), Vec::new(), Vec::new());
        Self { limit: StreamLimit::new(None), places, running, waiting, held, random: 7 }
    }

    /// Even, from 0 to 1 (SplitMix64).
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn streams(&self) -> u32 {
        (self.running.len() + self.waiting.len()) as u32
    }

    fn fill(&mut self, now: Instant) {
        while let Some(&came) = self.held.first()
            && self.limit.has_place(now, self.streams(), Rank::Leads)
        {
            self.held.remove(0);
            self.limit.led(self.streams());
            self.waiting.push((Self::URGENT_TOKENS, Some(came)));
            self.limit.sent(self.streams());
        }
        while self.limit.has_place(now, self.streams(), Rank::Yields) {
            let tokens = (60.0 * (0.5 + self.unit())) as u32;
            self.waiting.push((tokens, None));
            self.limit.sent(self.streams());
        }
    }

    fn run(mut self, seconds: u64) -> Became {
        let rate = Self::URGENT_SHARE * self.places as f64
            / Self::STEP_MS
            / f64::from(Self::URGENT_TOKENS);
        let (mut next_urgent, mut next_told) = (0.0, 0.0);
        let (mut tokens, mut steps, mut firsts) = (0, 0, Vec::new());
        let mut at_ms = 0.0;
        while at_ms < seconds as f64 * 1e3 {
            // Those that come while a step runs.
            let end = at_ms + Self::STEP_MS;
            self.fill(at(at_ms as u64));
            while next_urgent < end {
                self.held.push(next_urgent);
                self.fill(at(next_urgent as u64));
                next_urgent -= (1.0 - self.unit()).ln() / rate;
            }
            if next_told < end {
                let (running, waits) = (self.running.len() as u32, self.waiting.len() as u32);
                // What came since the last admission finds a place, as far as there are any.
                let waiting = (running + waits).saturating_sub(self.places as u32);
                self.limit.tell_load(
                    at(next_told as u64),
                    EngineLoad { running, waiting },
                    running + waits,
                );
                next_told += 250.0;
            }
            at_ms = end;
            let counts = at_ms > seconds as f64 * 250.0;
            let mut left = Vec::new();
            for (tokens_left, came) in self.running.drain(..) {
                if let Some(came) = came
                    && tokens_left == Self::URGENT_TOKENS
                    && counts
                {
                    firsts.push(end - came);
                }
                tokens += usize::from(counts);
                if tokens_left > 1 {
                    left.push((tokens_left - 1, came));
                }
            }
            self.running = left;
            while self.running.len() < self.places && !self.waiting.is_empty() {
                self.running.push(self.waiting.remove(0));
            }
            steps += usize::from(counts);
        }
        let late = firsts.iter().filter(|&&first| first > 2.0 * Self::STEP_MS + 1e-6).count();
        Became {
            used: tokens as f64 / (steps * self.places) as f64,
            late: late as f64 / firsts.len() as f64,
        }
    }
}

#[test]
fn urgent_streams_find_a_place_among_bulk() {
    // Fewer places come free less often, so more of them have to be kept.
    for (places, least_used) in [(32, 0.88), (64, 0.935), (128, 0.95), (256, 0.96)] {
        let Became { used, late } = Mixed::new(places).run(1200);
        assert!(used > least_used, "{used} of {places} used");
        assert!(late < 0.02, "{late} of the urgent ones late with {places} places");
    }
}

#[test]
fn places_that_are_new_are_found_among_urgent_streams_and_bulk_too() {
    let mut mixed = Mixed::new(32);
    mixed.limit.doubles = false;
    mixed.limit.limit = 32;
    mixed.places = 64;
    assert!(mixed.run(600).used > 0.85);
}
