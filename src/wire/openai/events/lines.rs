//! Where the events of a stream end.

/// What a byte is to the events that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Within,
    /// It is the last of an event, unless a line feed follows a carriage return.
    EventEnds,
    /// It is that line feed.
    LineFeedAfterIt,
}

/// Where lines and events end. A line ends with a line feed, a carriage return, or both.
#[derive(Debug)]
pub(super) struct Lines {
    line_is_empty: bool,
    after_return: bool,
    event_ended: bool,
    /// Whether a line has ended with both.
    has_pairs: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { line_is_empty: true, after_return: false, event_ended: false, has_pairs: false }
    }
}

impl Lines {
    pub(super) fn step(&mut self, byte: u8) -> Step {
        let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        let event_ended = std::mem::replace(&mut self.event_ended, false);
        match byte {
            b'\n' if after_return => {
                self.has_pairs = true;
                if event_ended { Step::LineFeedAfterIt } else { Step::Within }
            }
            b'\n' | b'\r' if self.line_is_empty => {
                self.event_ended = true;
                Step::EventEnds
            }
            b'\n' | b'\r' => {
                self.line_is_empty = true;
                Step::Within
            }
            _ => {
                self.line_is_empty = false;
                Step::Within
            }
        }
    }

    /// Whether the line feed of a last line is probably on its way.
    pub(super) fn awaits_line_feed(&self) -> bool {
        self.event_ended && self.after_return && self.has_pairs
    }
}
