//! Packing of bf16 for Arm's matrix instruction: for each four neighbours in `k`, the lanes follow each other, each with
//! two words.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::operand::{Operand, load};
use super::tile::pair;
use crate::weights::Elements;

/// Elements of `k` that are contiguous in a panel.
const QUAD: usize = 4;

/// Like `pack::panel`, for such words.
pub(super) fn panel(
    from: &Operand,
    first: usize,
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    let lanes = width.min(from.lanes - first);
    match from.data {
        Elements::F32(x) if from.k_stride == 1 => {
            by_row(x, bf16::from_f32, from, (first, lanes), width, k, to)
        }
        Elements::Bf16(x) if from.k_stride == 1 => by_row(x, |x| x, from, (first, lanes), width, k, to),
        Elements::F32(x) if from.lane_stride == 1 => {
            by_column(x, bf16::from_f32, from, (first, lanes), width, k, to);
        }
        Elements::Bf16(x) if from.lane_stride == 1 => by_column(x, |x| x, from, (first, lanes), width, k, to),
        _ => {
            for (quad, words) in to.chunks_exact_mut(2 * width).enumerate() {
                for (i, word) in words.iter_mut().enumerate() {
                    let (lane, at) = (i / 2, k.start + QUAD * quad + 2 * (i % 2));
                    let value = |at: usize| {
                        if lane < lanes && at < k.end { load(from, first + lane, at) } else { 0.0 }
                    };
                    word.write(pair(value(at), value(at + 1)));
                }
            }
        }
    }
}

/// Returns four numbers as two words.
#[inline(always)]
fn words([a, b, c, d]: [bf16; QUAD]) -> [u32; 2] {
    let word = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    [word(a, b), word(c, d)]
}

/// Packs lanes that are far apart, with `k` contiguous.
fn by_row<T: Copy>(
    x: &[T],
    round: impl Fn(T) -> bf16 + Copy,
    from: &Operand,
    (first, lanes): (usize, usize),
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    for lane in 0..width {
        let pairs = to[2 * lane..].chunks_mut(2 * width);
        if lane >= lanes {
            pairs.for_each(|pair| pair[..2].fill(MaybeUninit::new(0)));
            continue;
        }
        let line = &x[(first + lane) * from.lane_stride + k.start..][..k.len()];
        for (pair, numbers) in pairs.zip(line.chunks(QUAD)) {
            let mut quad = [bf16::ZERO; QUAD];
            quad.iter_mut().zip(numbers).for_each(|(to, x)| *to = round(*x));
            let [low, high] = words(quad);
            pair[0].write(low);
            pair[1].write(high);
        }
    }
}

/// Packs contiguous lanes: four rows of `k` at a time.
fn by_column<T: Copy>(
    x: &[T],
    round: impl Fn(T) -> bf16 + Copy,
    from: &Operand,
    (first, lanes): (usize, usize),
    width: usize,
    k: Range<usize>,
    to: &mut [MaybeUninit<u32>],
) {
    for (quad, to) in to.chunks_exact_mut(2 * width).enumerate() {
        let rows: [&[T]; QUAD] = std::array::from_fn(|i| {
            let at = k.start + QUAD * quad + i;
            if at < k.end { &x[at * from.k_stride + first..][..lanes] } else { &[] }
        });
        for (lane, pair) in to.chunks_exact_mut(2).enumerate() {
            let [low, high] = words(rows.map(|row| row.get(lane).map_or(bf16::ZERO, |x| round(*x))));
            pair[0].write(low);
            pair[1].write(high);
        }
    }
}
