//! Durations (`"250us"`, `"1m30s"`) and sizes (`"64MiB"`): text to value and back.
//!
//! Both are sums of a number and a unit, so they share one reader. The numbers are kept as integers:
//! a fraction is scaled by its unit exactly instead of going through a float.

use std::time::Duration;

/// Units of a duration in nanoseconds, the largest first.
const DURATION_UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Units of a size in bytes. They are compared without regard to case.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Digits after the decimal point that still change a number of nanoseconds.
const FRACTION_DIGITS_MAX: usize = 9;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing but blanks.
    #[error("it is empty")]
    Empty,
    /// A number was expected.
    #[error("`{0}` does not start with a number")]
    Number(String),
    /// More decimals than can have a meaning.
    #[error("it has more than {FRACTION_DIGITS_MAX} decimals")]
    Fraction,
    /// A number that nothing follows.
    #[error("it has no unit")]
    MissingUnit,
    /// A unit that is not known.
    #[error("the unit `{0}` is not known")]
    UnknownUnit(String),
    /// The value does not fit in 64 bits of nanoseconds or bytes.
    #[error("it is too large")]
    TooLarge,
}

/// Reads a duration: numbers with a unit of `h`, `m` (or `min`), `s`, `ms`, `us` or `ns`, one or more.
///
/// # Errors
/// [`UnitError`] when a number or a unit is missing or unknown, or the sum exceeds 64 bits of nanoseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(UnitError::Empty);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (part, after) = read_quantity(rest, |unit| {
            DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos)
        })?;
        total = total.checked_add(part).ok_or(UnitError::TooLarge)?;
        rest = after.trim_start();
    }
    Ok(Duration::from_nanos(total))
}

/// Writes a duration in the largest unit that keeps it exact, such as `90s` or `250us`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let exact = [("h", 3_600_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)]
        .into_iter()
        .find(|(_, unit)| nanos != 0 && nanos.is_multiple_of(*unit));
    match exact {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

/// Reads a size in bytes: one number with a unit of `B`, `KB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`, `TB` or `TiB`.
///
/// # Errors
/// [`UnitError`] when the number or the unit is missing or unknown, or the size exceeds 64 bits.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    let (bytes, rest) = read_quantity(text, |unit| {
        SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, bytes)| *bytes)
    })?;
    if rest.is_empty() { Ok(bytes) } else { Err(UnitError::UnknownUnit(rest.to_owned())) }
}

/// Writes a size in the largest binary unit that keeps it exact, such as `64MiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let exact = SIZE_UNITS
        .iter()
        .filter(|(name, _)| name.ends_with("iB"))
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit));
    match exact {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Reads `NUMBER[.FRACTION] UNIT` from the front; gives the value in the base unit and what follows.
fn read_quantity(
    text: &str,
    scale_of: impl Fn(&str) -> Option<u64>,
) -> Result<(u64, &str), UnitError> {
    let (whole, rest) = split_while(text, |c| c.is_ascii_digit());
    if whole.is_empty() {
        return Err(UnitError::Number(text.to_owned()));
    }
    let whole: u64 = whole.parse().map_err(|_| UnitError::TooLarge)?;
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_while(rest, |c| c.is_ascii_digit()),
        None => ("", rest),
    };
    let (unit, rest) = split_while(rest.trim_start(), char::is_alphabetic);
    if unit.is_empty() {
        return Err(UnitError::MissingUnit);
    }
    let scale = scale_of(unit).ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
    let whole = whole.checked_mul(scale).ok_or(UnitError::TooLarge)?;
    let value = whole.checked_add(scaled_fraction(fraction, scale)?).ok_or(UnitError::TooLarge)?;
    Ok((value, rest))
}

/// `0.DIGITS` of one unit, in the base unit, rounded down.
fn scaled_fraction(digits: &str, scale: u64) -> Result<u64, UnitError> {
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > FRACTION_DIGITS_MAX {
        return Err(UnitError::Fraction);
    }
    let numerator: u128 = digits.parse().map_err(|_| UnitError::Fraction)?;
    let denominator = digits.bytes().fold(1_u128, |power, _| power * 10);
    u64::try_from(numerator * u128::from(scale) / denominator).map_err(|_| UnitError::TooLarge)
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        let cases = [
            ("250us", Duration::from_micros(250)),
            ("250µs", Duration::from_micros(250)),
            ("5ms", Duration::from_millis(5)),
            ("5 ms", Duration::from_millis(5)),
            ("2s", Duration::from_secs(2)),
            ("1.5s", Duration::from_millis(1_500)),
            ("1m30s", Duration::from_secs(90)),
            ("1h 2min", Duration::from_secs(3_720)),
            ("7ns", Duration::from_nanos(7)),
            ("0s", Duration::ZERO),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_why() {
        let cases = [
            ("", UnitError::Empty),
            ("5", UnitError::MissingUnit),
            ("-5s", UnitError::Number("-5s".into())),
            ("fast", UnitError::Number("fast".into())),
            ("5parsecs", UnitError::UnknownUnit("parsecs".into())),
            ("1.0000000001s", UnitError::Fraction),
            ("99999999999999999999s", UnitError::TooLarge),
            ("18446744073709551615h", UnitError::TooLarge),
            ("5s!", UnitError::Number("!".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        let cases = [
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1GB", 1_000_000_000),
            ("1.5KiB", 1_536),
            ("12 B", 12),
            ("2TiB", 2 << 40),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_size("64"), Err(UnitError::MissingUnit));
        assert_eq!(parse_size("64Mb2"), Err(UnitError::UnknownUnit("2".into())));
        assert_eq!(parse_size("9999999TiB9"), Err(UnitError::UnknownUnit("9".into())));
        assert_eq!(parse_size("99999999TiB"), Err(UnitError::TooLarge));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }

        #[test]
        fn no_text_near_the_grammar_makes_the_readers_panic(
            text in "[0-9]{0,22}[.]?[0-9]{0,22} ?(h|min|m|s|ms|us|µs|ns|B|KB|GiB|TiB|x)?[0-9]{0,3}(s|B)?"
        ) {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }

        #[test]
        fn a_written_duration_reads_back(nanos in any::<u64>()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
