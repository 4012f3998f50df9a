//! Names of files and batches: random, so that none can be guessed or met twice.

use std::io;

/// What a file is called.
pub(super) const FILE: &str = "file-";
/// What a batch is called.
pub(super) const BATCH: &str = "batch_";

/// A name that nothing else has: the prefix and 32 hexadecimal digits.
pub(super) fn fresh(prefix: &str) -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{prefix}{}", hexadecimal(&random)))
}

/// Bytes as hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Whether a name of the directory is one that [`fresh`] gives.
pub(super) fn is_id(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| {
        rest.len() == 32 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_met_twice_and_name_nothing_outside() {
        let (one, two) = (fresh(FILE).unwrap(), fresh(FILE).unwrap());
        assert!(is_id(&one, FILE) && one != two, "{one}");
        assert!(!is_id(&one, BATCH));
        for bad in ["file-", "file-..", "file-/etc/passwd", "../file-", &one.to_uppercase()] {
            assert!(!is_id(bad, FILE), "{bad}");
        }
    }
}
