//! Panels begin at cache lines.

use std::mem::MaybeUninit;

/// Number of words of a cache line.
pub(super) const LINE: usize = 16;

/// Skips to the next cache line: writes the words before it, and returns their number and the words from there. A load
/// of a vector or of a row of a tile that crosses lines takes twice as long.
pub(super) fn aligned(words: &mut [MaybeUninit<u32>]) -> (usize, &mut [MaybeUninit<u32>]) {
    let before = words.as_ptr().align_offset(4 * LINE).min(LINE.min(words.len()));
    let (skipped, rest) = words.split_at_mut(before);
    skipped.fill(MaybeUninit::new(0));
    (before, rest)
}
