//! A packed batch on the device: tokens, positions, angles, attention tiles, and the scored rows.

use std::collections::HashMap;
use std::sync::Arc;

use super::kernels::{Angles, TILE};
use crate::device::{Address, Arena, Backend, Buffer};
use crate::error::Result;
use crate::model::lengths;
use crate::model::spec::RotationSpec;
use crate::ops::rope::Rotation;
use crate::ops::tree_attention::{Heads, TreeSpans};

/// Number of values in a tile's description.
const FIELDS: usize = 8;

/// The input of a pass.
pub(in crate::model) struct Input<'a> {
    pub(in crate::model) tokens: &'a [u32],
    pub(in crate::model) positions: &'a [u32],
    pub(in crate::model) trees: &'a [TreeSpans],
    /// Tokens after the last row of each sequence that count towards its length.
    pub(in crate::model) unread: usize,
}

/// A batch on the device.
pub(super) struct Placed {
    pub(super) rows: usize,
    pub(super) tokens: Address,
    pub(super) positions: Address,
    pub(super) tiles: Address,
    pub(super) tile_count: usize,
    pub(super) key_tiles: Address,
    pub(super) key_tile_count: usize,
    /// One for each of the spec's rotations.
    pub(super) angles: Vec<Angles>,
    trees: Vec<TreeSpans>,
}

impl Placed {
    /// Arithmetic operations of one attention product over all visible pairs.
    pub(super) fn flop(&self, heads: &Heads) -> usize {
        heads.flop(&self.trees)
    }
}

/// Tables of angles for the first positions, for rotations that depend on the position alone.
#[derive(Default)]
pub(super) struct AngleTables(HashMap<usize, (usize, Buffer, Buffer)>);

impl AngleTables {
    fn of(
        &mut self,
        device: &Arc<dyn Backend>,
        index: usize,
        spec: &RotationSpec,
        positions: usize,
        rows: Address,
    ) -> Result<Angles> {
        let half = spec.frequencies.len();
        if self.0.get(&index).is_none_or(|(known, _, _)| *known < positions) {
            let known = positions.next_power_of_two().max(256);
            let all: Vec<u32> = (0..known as u32).collect();
            let rotation = lengths::rotation(spec, &all, &[], 0);
            let (cos, sin) = rotation.tables();
            self.0.insert(index, (known, Buffer::of(device, cos)?, Buffer::of(device, sin)?));
        }
        let (_, cos, sin) = &self.0[&index];
        Ok(Angles { cos: cos.at(), sin: sin.at(), half, rows })
    }
}

/// Copies a batch to the device, in memory taken from `memory`.
pub(super) fn place(
    (device, memory): (&Arc<dyn Backend>, &mut Arena),
    rotations: &[RotationSpec],
    tables: &mut AngleTables,
    input: &Input,
) -> Result<Placed> {
    let Input { tokens, positions, trees, unread } = input;
    let (tiles, key_tiles) = (tiles(trees), key_tiles(trees));
    // A single copy for all of them; each starts at a multiple of 16 bytes.
    let mut words: Vec<u32> = Vec::new();
    let mut place = |part: &[u32]| {
        let at = words.len().next_multiple_of(4);
        words.resize(at, 0);
        words.extend_from_slice(part);
        4 * at
    };
    let places = [place(tokens), place(positions), place(&tiles), place(&key_tiles)];
    let start = memory.put(&words)?;
    let [tokens_at, positions_at, tiles_at, key_tiles_at] = places.map(|at| start.plus(at));
    let last = positions.iter().max().map_or(0, |last| *last as usize);
    let mut angles = Vec::new();
    for (index, spec) in rotations.iter().enumerate() {
        angles.push(if spec.by_length.is_none() {
            tables.of(device, index, spec, last + 1, positions_at)?
        } else {
            let rotation: Rotation = lengths::rotation(spec, positions, trees, *unread);
            let (cos, sin) = rotation.tables();
            let (cos, sin) = (memory.put(cos)?, memory.put(sin)?);
            Angles { cos, sin, half: spec.frequencies.len(), rows: Address::NONE }
        });
    }
    Ok(Placed {
        rows: tokens.len(),
        tokens: tokens_at,
        positions: positions_at,
        tiles: tiles_at,
        tile_count: tiles.len() / FIELDS,
        key_tiles: key_tiles_at,
        key_tile_count: key_tiles.len() / FIELDS,
        angles,
        trees: trees.to_vec(),
    })
}

/// Returns the tiles of queries, sorted so that those with the most keys come last, where the kernels start:
/// `q0, qn, p0, pn, o0, first, 0, 0`, as described in `attention.cu`.
fn tiles(trees: &[TreeSpans]) -> Vec<u32> {
    let mut tiles: Vec<(usize, [usize; FIELDS])> = Vec::new();
    for span in trees.iter().flat_map(|tree| &tree.spans) {
        for first in (0..span.queries.len()).step_by(TILE) {
            let count = TILE.min(span.queries.len() - first);
            let tile = [
                span.queries.start + first,
                count,
                span.prefix.start,
                span.prefix.len(),
                span.own.start,
                first,
                0,
                0,
            ];
            tiles.push((span.prefix.len() + first + count, tile));
        }
    }
    tiles.sort_by_key(|(keys, _)| *keys);
    tiles.iter().flat_map(|(_, tile)| tile.map(|n| n as u32)).collect()
}

/// Returns the tiles of keys, sorted so that those seen by the most queries come first: `k0, kn, q0, q1`. A prompt's
/// keys are seen by the rest of its tree, a completion's keys by the rest of the completion.
fn key_tiles(trees: &[TreeSpans]) -> Vec<u32> {
    let mut tiles: Vec<(usize, [usize; FIELDS])> = Vec::new();
    for tree in trees {
        for (i, span) in tree.spans.iter().enumerate() {
            let end = if i == 0 { tree.rows.end } else { span.own.end };
            for start in span.own.clone().step_by(TILE) {
                let count = TILE.min(span.own.end - start);
                // In a step of decoding keys lie elsewhere than queries; nothing reads these tiles then.
                tiles.push((end.saturating_sub(start), [start, count, start, end, 0, 0, 0, 0]));
            }
        }
    }
    tiles.sort_by_key(|(queries, _)| std::cmp::Reverse(*queries));
    tiles.iter().flat_map(|(_, tile)| tile.map(|n| n as u32)).collect()
}

/// Returns the scored items of each row, as `starts [rows + 1]` and `items`.
pub(super) fn by_row(scored_rows: &[u32], rows: usize) -> (Vec<i32>, Vec<i32>) {
    let mut items: Vec<i32> = (0..scored_rows.len() as i32).collect();
    items.sort_by_key(|item| scored_rows[*item as usize]);
    let mut starts = vec![0; rows + 1];
    scored_rows.iter().for_each(|row| starts[*row as usize + 1] += 1);
    for row in 0..rows {
        starts[row + 1] += starts[row];
    }
    (starts, items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tree_attention::Span;

    #[test]
    fn tiles_cover_every_query_and_key_once() {
        let spans = vec![
            Span { queries: 10..110, prefix: 10..10, own: 10..110 },
            Span { queries: 110..113, prefix: 10..110, own: 110..113 },
            Span { queries: 113..113, prefix: 10..110, own: 113..113 },
        ];
        let trees = [TreeSpans { rows: 10..113, spans }];
        let tiles = tiles(&trees);
        assert_eq!(tiles[16..], [110, 3, 10, 100, 110, 0, 0, 0]);
        assert_eq!(tiles[8..16], [74, 36, 10, 0, 10, 64, 0, 0]);
        assert_eq!(tiles.len(), 3 * 8);
        let keys = key_tiles(&trees);
        assert_eq!(keys[..4], [10, 64, 10, 113]);
        assert_eq!(keys[8..12], [74, 36, 74, 113]);
        assert_eq!(keys[16..20], [110, 3, 110, 113]);
    }

    #[test]
    fn items_are_found_by_their_row() {
        let (starts, items) = by_row(&[2, 3, 2, 0], 5);
        assert_eq!(starts, [0, 1, 1, 3, 4, 4]);
        assert_eq!(items, [3, 0, 2, 1]);
    }
}
