//! AdamW with moments of 8 bits: Dettmers et al. 2022 (arXiv 2110.02861), as `bitsandbytes.optim.AdamW8bit`.
//!
//! Every 256 numbers of a moment share the largest absolute value as their scale, and each is stored as the nearest of
//! 256 values of the dynamic map. Before a step both moments are decoded to f32 and afterwards they are encoded again;
//! the step itself is AdamW's. A first moment keeps its sign: a code of the other sign gives way to its neighbour. Tensors
//! of fewer than 4096 numbers keep moments of 32 bits.
//!
//! The codes are those of bitsandbytes' CUDA kernel. Its library for processors encodes numbers near 0 otherwise.

use rayon::prelude::*;

use super::adamw;
use super::dynamic_map::{dynamic_map, nearest};
use super::pieces::{Piece, pieces, take};
use super::rates::Rates;
use super::rule::{OptimizerConfig, Rule};
use crate::trainable::Store;
use crate::trainable::store::{Moment, Numbers, Parts};

const NAMES: &[&str] = &["state1", "state2", "absmax1", "absmax2", "exp_avg", "exp_avg_sq"];
/// Numbers that share a scale.
const BLOCK: usize = 256;
/// Tensors with fewer numbers are not quantised.
const SMALL: usize = 4096;

/// AdamW with quantised moments.
pub(super) struct AdamW8Bit {
    config: OptimizerConfig,
    /// Values of the codes of the first moment, ascending.
    signed: [f32; 256],
    /// Values of the codes of the second moment, ascending.
    unsigned: [f32; 256],
}

/// The state of a block.
struct Block<'a> {
    codes1: &'a mut [u8],
    codes2: &'a mut [u8],
    absmax1: &'a mut f32,
    absmax2: &'a mut f32,
}

impl AdamW8Bit {
    /// Creates the rule with the configured decay rates.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { config: *config, signed: dynamic_map(true), unsigned: dynamic_map(false) }
    }

    fn block(&self, (step, lr): (u64, f64), values: &mut [f32], gradient: &[f32], block: Block) {
        let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (m, v) = (&mut m[..values.len()], &mut v[..values.len()]);
        decode(&self.signed, block.codes1, *block.absmax1, m);
        decode(&self.unsigned, block.codes2, *block.absmax2, v);
        adamw::step((&self.config, step, lr), values, gradient, m, v);
        *block.absmax1 = self.encode(true, m, block.codes1);
        *block.absmax2 = self.encode(false, v, block.codes2);
    }

    /// Writes the codes of a block and returns its scale.
    fn encode(&self, signed: bool, numbers: &[f32], codes: &mut [u8]) -> f32 {
        let map = if signed { &self.signed } else { &self.unsigned };
        let absmax = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (code, x) in codes.iter_mut().zip(numbers) {
            let scaled = if absmax > 0.0 { x / absmax } else { 0.0 };
            *code = nearest(map, scaled);
            if signed && map[usize::from(*code)].is_sign_negative() != x.is_sign_negative() {
                *code = if *x > 0.0 { code.saturating_add(1) } else { code.saturating_sub(1) };
            }
        }
        absmax
    }

    /// Updates a tensor block by block.
    fn large(&self, now: (u64, f64), piece: Piece, state: [&mut [u8]; 2], scales: [&mut [f32]; 2]) {
        let ([codes1, codes2], [absmax1, absmax2]) = (state, scales);
        piece
            .values
            .par_chunks_mut(BLOCK)
            .zip(piece.gradient.par_chunks(BLOCK))
            .zip(codes1.par_chunks_mut(BLOCK).zip(codes2.par_chunks_mut(BLOCK)))
            .zip(absmax1.par_iter_mut().zip(absmax2))
            .with_min_len(16)
            .for_each(|(((values, gradient), (codes1, codes2)), (absmax1, absmax2))| {
                self.block(now, values, gradient, Block { codes1, codes2, absmax1, absmax2 });
            });
    }
}

fn decode(map: &[f32; 256], codes: &[u8], absmax: f32, out: &mut [f32]) {
    out.iter_mut().zip(codes).for_each(|(x, code)| *x = map[usize::from(*code)] * absmax);
}

impl Rule for AdamW8Bit {
    fn moments(&self) -> &'static [&'static str] {
        NAMES
    }

    fn start(&self, store: &Store) -> Vec<Moment> {
        let sizes = || store.entries().iter().map(|entry| entry.range.len());
        let large = || sizes().filter(|size| *size >= SMALL);
        let (codes, blocks) = (large().sum(), large().map(|size| size.div_ceil(BLOCK)).sum());
        let small = store.values().len() - codes;
        let codes = |name| Moment { name, values: Numbers::U8(vec![0; codes]) };
        vec![
            codes(NAMES[0]),
            codes(NAMES[1]),
            Moment::zeros(NAMES[2], blocks),
            Moment::zeros(NAMES[3], blocks),
            Moment::zeros(NAMES[4], small),
            Moment::zeros(NAMES[5], small),
        ]
    }

    fn update(&self, step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [state1, state2, absmax1, absmax2, exp_avg, exp_avg_sq] = moments else { return };
        let (mut codes1, mut codes2) = (state1.codes_mut(), state2.codes_mut());
        let (mut absmax1, mut absmax2) = (absmax1.f32s_mut(), absmax2.f32s_mut());
        let (mut m, mut v) = (exp_avg.f32s_mut(), exp_avg_sq.f32s_mut());
        for piece in pieces(values, gradient, entries, rates) {
            let count = piece.values.len();
            if count < SMALL {
                let (m, v) = (take(&mut m, count), take(&mut v, count));
                adamw::step((&self.config, step, piece.lr), piece.values, piece.gradient, m, v);
            } else {
                let blocks = count.div_ceil(BLOCK);
                let codes = [take(&mut codes1, count), take(&mut codes2, count)];
                let scales = [take(&mut absmax1, blocks), take(&mut absmax2, blocks)];
                self.large((step, piece.lr), piece, codes, scales);
            }
        }
    }
}
