//! Rotations that depend on the length of a sequence (longrope, dynamic NTK).

use std::borrow::Cow;

use super::spec::{ByLength, RotationSpec};
use crate::data::PackedBatch;
use crate::ops::rope::Rotation;
use crate::ops::tree_attention::TreeSpans;

/// The rotations of all rows. The longest branch of a tree sets the length for the whole tree; trees whose branches
/// need different frequencies are divided beforehand.
pub(super) fn rotation(
    spec: &RotationSpec,
    positions: &[u32],
    trees: &[TreeSpans],
    unread: usize,
) -> Rotation {
    let half = spec.frequencies.len();
    let scale = |position: u32| spec.scale * spec.growth.map_or(1.0, |growth| growth.at(position));
    let Some(by_length) = &spec.by_length else {
        let rows = positions.iter().map(|p| (*p, spec.frequencies.as_slice(), scale(*p)));
        return Rotation::by_row(rows, half, spec.pairing);
    };
    let of_tree = |tree: &TreeSpans| {
        let last = positions[tree.rows.clone()].iter().max().map_or(0, |last| *last as usize);
        by_length.frequencies(&spec.frequencies, last + 1 + unread)
    };
    let frequencies: Vec<Vec<f32>> = trees.iter().map(of_tree).collect();
    // Trees cover the rows in order.
    let rows = trees.iter().zip(&frequencies).flat_map(|(tree, frequencies)| {
        let positions = positions[tree.rows.clone()].iter();
        positions.map(move |p| (*p, frequencies.as_slice(), scale(*p)))
    });
    Rotation::by_row(rows, half, spec.pairing)
}

/// Returns the batch with those trees divided whose branches have lengths with different frequencies.
pub(super) fn divided<'a>(rotations: &[RotationSpec], batch: &'a PackedBatch) -> Cow<'a, PackedBatch> {
    let rules: Vec<_> = rotations.iter().filter_map(|rotation| rotation.by_length.as_ref()).collect();
    if rules.is_empty() {
        return Cow::Borrowed(batch);
    }
    Cow::Owned(batch.divided(|tree| {
        // The last token of a completion has no row.
        let mut lengths = tree.completions.iter().map(|rows| tree.prompt.len() + rows.len() + batch.unread());
        let first = lengths.next().unwrap_or(0);
        lengths.any(|length| rules.iter().any(|rule| !rule.same(first, length)))
    }))
}

/// Whether a sequence that grows from `seen` to `length` tokens exceeds the length at which its frequencies change.
pub(super) fn crosses(rotations: &[RotationSpec], seen: usize, length: usize) -> bool {
    let is_crossed = |rule: &ByLength| matches!(rule, ByLength::Long { .. }) && !rule.same(seen, length);
    seen > 0 && rotations.iter().filter_map(|rotation| rotation.by_length.as_ref()).any(is_crossed)
}
