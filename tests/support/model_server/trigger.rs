//! When a fault strikes, and the chance behind it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When a fault strikes. Written as `never`, `always`, `next:3` (the next three inference calls)
/// or `fraction:0.1` (each call with this probability).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trigger {
    /// Off.
    #[default]
    Never,
    /// Every inference call.
    Always,
    /// This many further inference calls, then off.
    Next(u64),
    /// Each inference call with this probability, 0 to 1.
    Fraction(f64),
}

/// A text that is no [`Trigger`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a trigger: never, always, next:COUNT or fraction:PROBABILITY")]
pub struct TriggerError(String);

impl Trigger {
    pub(super) fn strikes(&mut self, random: &mut u64) -> bool {
        match self {
            Self::Never | Self::Next(0) => false,
            Self::Always => true,
            Self::Next(left) => {
                *left -= 1;
                true
            }
            Self::Fraction(probability) => next_unit(random) < *probability,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => out.write_str("never"),
            Self::Always => out.write_str("always"),
            Self::Next(count) => write!(out, "next:{count}"),
            Self::Fraction(probability) => write!(out, "fraction:{probability}"),
        }
    }
}

impl FromStr for Trigger {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let parsed = match text.split_once(':') {
            None if text == "never" => Some(Self::Never),
            None if text == "always" => Some(Self::Always),
            Some(("next", count)) => count.parse().ok().map(Self::Next),
            Some(("fraction", probability)) => {
                let valid = probability.parse().ok().filter(|p| (0.0..=1.0).contains(p));
                valid.map(Self::Fraction)
            }
            _ => None,
        };
        parsed.ok_or_else(|| TriggerError(text.to_owned()))
    }
}

impl TryFrom<String> for Trigger {
    type Error = TriggerError;

    fn try_from(text: String) -> Result<Self, TriggerError> {
        text.parse()
    }
}

impl From<Trigger> for String {
    fn from(trigger: Trigger) -> Self {
        trigger.to_string()
    }
}

/// SplitMix64, as a number in 0..1: the same run of calls meets the same faults.
fn next_unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
