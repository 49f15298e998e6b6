//! The flat buffers of a store, divided into its tensors.

use super::rates::Rates;
use crate::trainable::store::Entry;

/// One tensor: its dimensions, values, gradient and learning rate.
pub(super) struct Piece<'a> {
    pub shape: &'a [usize],
    pub values: &'a mut [f32],
    pub gradient: &'a [f32],
    pub lr: f64,
}

/// Returns the tensors in order. The entries partition both buffers, as those of a store do.
pub(super) fn pieces<'a>(
    mut values: &'a mut [f32],
    mut gradient: &'a [f32],
    entries: &'a [Entry],
    rates: Rates,
) -> Vec<Piece<'a>> {
    let mut pieces = Vec::with_capacity(entries.len());
    for entry in entries {
        let count = entry.range.len().min(values.len()).min(gradient.len());
        let (own, rest) = std::mem::take(&mut values).split_at_mut(count);
        let (slopes, behind) = gradient.split_at(count);
        pieces.push(Piece { shape: &entry.shape, values: own, gradient: slopes, lr: rates.of(entry) });
        (values, gradient) = (rest, behind);
    }
    pieces
}

/// Takes the first `count` elements from a buffer.
pub(super) fn take<'a, T>(buffer: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let all = std::mem::take(buffer);
    let count = count.min(all.len());
    let (first, rest) = all.split_at_mut(count);
    *buffer = rest;
    first
}
