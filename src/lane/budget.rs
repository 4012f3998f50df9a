//! Tokens for extra work, so that help cannot become load.

/// A bucket that successes fill and extra work empties.
///
/// Isolating one bad call among n costs about log2(n) failures and as many successes, so a supply
/// of [`EARNED`](Self::EARNED) tokens a success pays for it for ever; an instance that fails
/// everything uses up the reserve and is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    tokens: u32,
}

impl Budget {
    const RESERVE: u32 = 128;
    const EARNED: u32 = 2;

    pub(super) fn new() -> Self {
        Self { tokens: Self::RESERVE }
    }

    /// A batch was served.
    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + Self::EARNED).min(Self::RESERVE);
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self) -> bool {
        let had = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        had
    }
}
