//! The `grpc-timeout` header.

use std::time::Duration;

use http::HeaderValue;

/// The units of `grpc-timeout`, finest first, in nanoseconds.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];

/// The most digits that the header may have.
const DIGITS: usize = 8;

/// Reads a `grpc-timeout`: at most 8 digits and one of `H M S m u n`; `None` when it is none.
pub fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (_, nanos) = UNITS.into_iter().find(|&(name, _)| name == unit)?;
    let nanos = digits.parse::<u128>().ok()?.checked_mul(nanos)?;
    Some(Duration::new(
        u64::try_from(nanos / 1_000_000_000).ok()?,
        u32::try_from(nanos % 1_000_000_000).ok()?,
    ))
}

/// Writes a `grpc-timeout` in the finest unit that 8 digits allow, rounded up, so that a deadline
/// is never told shorter than it is.
pub fn format_timeout(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let text = UNITS
        .into_iter()
        .map(|(name, unit)| (name, nanos.div_ceil(unit)))
        .find(|&(_, count)| count < 10_u128.pow(DIGITS as u32))
        .map_or_else(|| "99999999H".to_owned(), |(name, count)| format!("{count}{name}"));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &'static str) -> Option<Duration> {
        parse_timeout(&HeaderValue::from_static(text))
    }

    #[test]
    fn reads_every_unit_and_nothing_else() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
        assert_eq!(parse("1500000n"), Some(Duration::from_micros(1500)));
        for wrong in ["", "S", "1", "123456789S", "-1S", "1s", "1.5S", "+1S"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_never_shorter(nanos in 0_u64..u64::MAX / 2) {
            let timeout = Duration::from_nanos(nanos);
            let back = parse_timeout(&format_timeout(timeout)).unwrap();
            prop_assert!(back >= timeout);
            prop_assert!(back <= timeout + timeout / 1_000_000 + Duration::from_nanos(1));
        }
    }
}
