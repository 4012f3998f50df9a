//! Sizes that are taken to learn what they cost, where the batches themselves never would.

use super::curve::Curve;

/// Under backlog, one batch in so many looks at a size that is not known yet.
const EXPLORE_EVERY: u64 = 16;
/// After a change of the curve, so many batches in a row do.
const EXPLORE_AFTER_CHANGE: u64 = 64;

/// Whether the batch after so many others may look at a size that is not known yet.
pub(super) fn is_due(curve: &Curve, batches: u64) -> bool {
    let since_change = curve.answers_since_change();
    let changed = since_change < EXPLORE_AFTER_CHANGE && since_change < curve.answers();
    changed || batches.is_multiple_of(EXPLORE_EVERY)
}

/// A size to look at, where there is a backlog to spend on it.
pub(super) fn explore(curve: &Curve, cap: u32) -> Option<u32> {
    let halves = std::iter::successors(Some(cap), |&rows| (rows > 1).then_some(rows / 2));
    if let Some(unseen) = halves.into_iter().find(|&rows| !curve.has_seen(rows)) {
        return Some(unseen);
    }
    let best = curve.most_efficient(cap);
    let below = curve.sizes_seen().filter(|&rows| rows < best).last();
    let above = curve.sizes_seen().find(|&rows| rows > best && rows <= cap);
    let between = |(low, high): (u32, u32)| (high > low + 1).then(|| low + (high - low) / 2);
    let above = above.and_then(|above| between((best, above)));
    above
        .or_else(|| below.and_then(|below| between((below, best))))
        .filter(|&rows| !curve.has_seen(rows))
}

/// A size between `rows`, which the curve says to stop at, and the next larger one that is known: the
/// step may lie anywhere between, and a size that is never taken would never be known.
pub(super) fn explore_above(curve: &Curve, rows: u32, most: u32) -> Option<u32> {
    let above = curve.sizes_seen().find(|&seen| seen > rows)?;
    let between = rows + (above - rows) / 2;
    (between > rows && between <= most && !curve.has_seen(between)).then_some(between)
}
