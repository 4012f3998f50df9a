//! From one TOML value to what its key holds.

use std::time::Duration;

use toml::de::DeValue;

use super::explain::{clip, quote};
use super::keys::{Key, Kind};
use super::units;

/// Why a value was not taken, before its place is known.
pub(super) enum Fault {
    Type,
    Bad { found: String, reason: String, expected: String },
    Range { found: String, minimum: String, maximum: String },
}

impl Fault {
    pub(super) fn bad(key: &Key, text: &str, reason: &str) -> Self {
        Self::Bad { found: quote(text), reason: reason.into(), expected: key.kind.expected() }
    }
}

pub(super) fn read_duration(key: &Key, value: &DeValue<'_>) -> Result<Duration, Fault> {
    let (Kind::Duration(minimum, maximum) | Kind::DurationOrAuto(minimum, maximum), Some(text)) =
        (key.kind, value.as_str())
    else {
        return Err(Fault::Type);
    };
    let duration =
        units::parse_duration(text).map_err(|error| Fault::bad(key, text, &error.to_string()))?;
    within(duration, minimum, maximum, || quote(text), units::format_duration)
}

pub(super) fn read_integer<T: TryFrom<u64>>(
    value: &DeValue<'_>,
    minimum: u64,
    maximum: u64,
) -> Result<T, Fault> {
    let DeValue::Integer(integer) = value else { return Err(Fault::Type) };
    let range = || Fault::Range {
        found: clip(&integer.to_string()),
        minimum: minimum.to_string(),
        maximum: maximum.to_string(),
    };
    let number = u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| range())?;
    let number = if (minimum..=maximum).contains(&number) { number } else { return Err(range()) };
    T::try_from(number).map_err(|_| range())
}

pub(super) fn within<T: PartialOrd>(
    value: T,
    minimum: T,
    maximum: T,
    found: impl FnOnce() -> String,
    format: impl Fn(T) -> String,
) -> Result<T, Fault> {
    if (&minimum..=&maximum).contains(&&value) {
        Ok(value)
    } else {
        Err(Fault::Range { found: found(), minimum: format(minimum), maximum: format(maximum) })
    }
}

pub(super) fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
