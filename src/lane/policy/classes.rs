//! Batch sizes by which times are kept: each by itself as long as they are small, together beyond.

/// Sizes up to this have a record each.
const EXACT: u32 = 64;
/// Records for each doubling of the size beyond.
const PER_OCTAVE: u32 = 32;

/// The record that a size belongs to.
pub(super) fn class(rows: u32) -> usize {
    let rows = rows.max(1);
    if rows <= EXACT {
        return rows as usize - 1;
    }
    // 65..=128 by 2, 129..=256 by 4, and so on.
    let octave = (rows - 1).ilog2() - EXACT.ilog2();
    let width = (EXACT << octave) / PER_OCTAVE;
    let within = (rows - 1 - (EXACT << octave)) / width;
    (EXACT + octave * PER_OCTAVE + within) as usize
}

/// The largest size of a record.
pub(super) fn nominal(class: usize) -> u32 {
    let class = u32::try_from(class).unwrap_or(u32::MAX);
    if class < EXACT {
        return class + 1;
    }
    let (octave, within) = ((class - EXACT) / PER_OCTAVE, (class - EXACT) % PER_OCTAVE);
    let start = EXACT << octave.min(24);
    start + (within + 1) * (start / PER_OCTAVE)
}

/// The largest size of every record up to `cap`, and `cap`.
pub(super) fn sizes(cap: u32) -> impl Iterator<Item = u32> {
    (0..class(cap)).map(nominal).chain([cap])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_share_records_only_where_they_are_large() {
        for rows in 1..=64 {
            assert_eq!(nominal(class(rows)), rows);
        }
        for rows in 65..5000 {
            let largest = nominal(class(rows));
            assert!(largest >= rows && largest < rows + rows / 32 + 1, "{rows} -> {largest}");
            assert!(class(rows + 1) - class(rows) <= 1);
        }
    }
}
