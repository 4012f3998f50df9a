//! The roads of the simulated network: how long it takes to a host and back, and what goes wrong there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::line::Line;
use crate::random::Random;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the end that dialled.
    Out,
    /// To it.
    Back,
}

/// What goes wrong on a road.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Not a packet passes: connections do not even come about.
    Lost,
    /// The host's kernel takes connections and bytes, and nobody reads them.
    Frozen,
}

#[derive(Debug)]
struct State {
    random: Random,
    /// Milliseconds that each piece takes at least, and at most so many more.
    delay: (u64, u64),
    silence: Option<Silence>,
    crumbles: bool,
    cut: Option<(Direction, usize)>,
    lines: Vec<Line>,
}

/// The road to a host, shared by the lines that run along it.
#[derive(Clone, Debug)]
pub(crate) struct Road {
    state: Arc<Mutex<State>>,
    /// Told when silence begins or ends.
    changed: Arc<Notify>,
}

impl Road {
    /// A good road, on which each piece takes `delay.0` to `delay.0 + delay.1` milliseconds.
    pub(crate) fn new(seed: u64, delay: (u64, u64)) -> Self {
        let state = State {
            random: Random::new(seed),
            delay,
            silence: None,
            crumbles: false,
            cut: None,
            lines: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// How long the next piece takes, as `random` has it.
    pub(crate) fn delay(&self, random: &mut Random) -> Duration {
        let (least, more) = self.state().delay;
        Duration::from_millis(least + random.below(more + 1))
    }

    /// Random numbers for one more line.
    pub(crate) fn draw(&self) -> Random {
        Random::new(self.state().random.next())
    }

    /// From now on pieces take so long.
    pub(crate) fn set_delay(&self, delay: (u64, u64)) {
        self.state().delay = delay;
    }

    /// Whether nothing passes.
    pub(crate) fn is_silent(&self) -> bool {
        self.state().silence.is_some()
    }

    /// Begins or ends a silence; what was held up by it arrives then.
    pub(crate) fn set_silence(&self, silence: Option<Silence>) {
        self.state().silence = silence;
        self.changed.notify_waiters();
        for line in self.lines() {
            line.wake();
        }
    }

    /// Returns once a connection can come about.
    pub(crate) async fn until_it_leads_somewhere(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().silence != Some(Silence::Lost) {
                return;
            }
            changed.await;
        }
    }

    /// Whether bytes come one by one.
    pub(crate) fn is_crumbling(&self) -> bool {
        self.state().crumbles
    }

    /// From now on bytes come one by one, or not.
    pub(crate) fn set_crumbles(&self, crumbles: bool) {
        self.state().crumbles = crumbles;
    }

    /// The next line on which something goes that way is cut so many bytes later.
    pub(crate) fn cut_next(&self, direction: Direction, after: usize) {
        self.state().cut = Some((direction, after));
    }

    /// Takes back a cut that has not come to pass, also of a line that already counts its bytes.
    pub(crate) fn cut_none(&self) {
        self.state().cut = None;
        for line in self.lines() {
            line.spare();
        }
    }

    pub(crate) fn take_cut(&self, direction: Direction) -> Option<usize> {
        let mut state = self.state();
        let meant = state.cut.is_some_and(|(meant, _)| meant == direction);
        if meant { state.cut.take().map(|(_, after)| after) } else { None }
    }

    /// Notes a line that runs along it.
    pub(crate) fn carries(&self, line: Line) {
        let mut state = self.state();
        state.lines.retain(Line::is_in_use);
        state.lines.push(line);
    }

    /// Resets every line.
    pub(crate) fn reset_lines(&self) {
        for line in self.lines() {
            line.reset();
        }
    }

    fn lines(&self) -> Vec<Line> {
        self.state().lines.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
