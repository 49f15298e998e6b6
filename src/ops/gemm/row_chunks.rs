//! The chunks of one row on the left, in fixed point, and the sums of their products.

use super::packed::Packed;
use super::tile::CHUNK;

/// A chunk of the row on the left.
pub(super) struct Pairs<'a> {
    /// The words of its pairs; those that are missing are zero.
    pub(super) words: &'a [u32; CHUNK / 2],
    /// How many numbers it has.
    pub(super) numbers: usize,
    scale: f32,
    /// Whether it is the last of a block of `k`, whose sum is by itself.
    ends: bool,
}

/// Returns the chunks of a row. The pairs of a last one that is not whole are copied to `last`.
pub(super) fn chunks<'a>(a: &'a Packed, last: &'a mut [u32; CHUNK / 2]) -> Vec<Pairs<'a>> {
    let (blocks, rest) = (a.cut.blocks(), a.cut.k % CHUNK);
    if rest > 0 {
        let steps = a.panel(blocks - 1, 0);
        let pairs = &steps[steps.len() - 1 - rest.div_ceil(2)..steps.len() - 1];
        last[..pairs.len()].copy_from_slice(pairs);
    }
    let last = &*last;
    let of_block = |block: usize| {
        // The scale of a chunk follows its pairs.
        let chunks = a.panel(block, 0).chunks(CHUNK / 2 + 1);
        let count = chunks.len();
        chunks.enumerate().map(move |(index, steps)| {
            let (scale, pairs) = steps.split_last().unwrap_or((&0, &[]));
            let whole = pairs.first_chunk();
            Pairs {
                words: whole.unwrap_or(last),
                numbers: if whole.is_some() { CHUNK } else { rest },
                scale: f32::from_bits(*scale),
                ends: index + 1 == count,
            }
        })
    };
    (0..blocks).flat_map(of_block).collect()
}

/// An output, to which the products of chunks are added in their order; it is written at the end of each block of `k`.
pub(super) struct Output {
    to: *mut f32,
    sum: f32,
    accumulate: bool,
}

impl Output {
    /// # Safety
    /// The output must be valid for writing (and reading, to `accumulate`) as long as chunks are added.
    #[inline(always)]
    pub(super) unsafe fn new(to: *mut f32, accumulate: bool) -> Self {
        Self { to, sum: 0.0, accumulate }
    }

    /// Adds the products of chunks times the scales of the row on the left. For speed, the caller's code must be compiled for
    /// processors with FMA.
    #[inline(always)]
    pub(super) fn add(&mut self, products: &[f32], chunks: &[Pairs]) {
        for (product, chunk) in products.iter().zip(chunks) {
            self.sum = product.mul_add(chunk.scale, self.sum);
            if chunk.ends {
                // SAFETY: the caller of `new` guarantees this.
                unsafe { *self.to = if self.accumulate { *self.to + self.sum } else { self.sum } };
                (self.accumulate, self.sum) = (true, 0.0);
            }
        }
    }
}
