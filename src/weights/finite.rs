//! Finds weights that are not finite while they are read: one pass of comparisons over bytes that are needed anyway.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{BlockKind, Blocks, Elements};

/// Numbers that a thread checks at once.
const PART: usize = 1 << 16;

/// The first NaN or infinity among `elements`, if there is one. For quantised blocks only the scales are checked: all their
/// numbers are multiples of them.
pub(super) fn first_non_finite(elements: &Elements) -> Option<f32> {
    match elements {
        Elements::F32(x) => first(x, |x| x.to_bits() & 0x7F80_0000 == 0x7F80_0000, |x| x),
        Elements::Bf16(x) => first(x, |x| x.to_bits() & 0x7F80 == 0x7F80, bf16::to_f32),
        Elements::F16(x) => first(x, |x| x.to_bits() & 0x7C00 == 0x7C00, f16::to_f32),
        Elements::Blocks(blocks) => first_scale(blocks),
    }
}

fn first<T: Copy + Sync + Send>(all: &[T], is_none: fn(T) -> bool, widen: fn(T) -> f32) -> Option<f32> {
    // `fold` without a branch, so that it vectorises; the number is looked for only where there is one.
    let part = all.par_chunks(PART).find_first(|part| part.iter().fold(false, |any, x| any | is_none(*x)))?;
    part.iter().find(|x| is_none(**x)).map(|x| widen(*x))
}

fn first_scale(blocks: &Blocks) -> Option<f32> {
    let (_, size) = blocks.kind().block();
    let places: &[usize] = match blocks.kind() {
        BlockKind::Q4_0 | BlockKind::Q5_0 | BlockKind::Q8_0 => &[0],
        BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q4K | BlockKind::Q5K => &[0, 2],
        BlockKind::Q6K => &[size - 2],
        // Made of numbers that were checked.
        BlockKind::Nf4 => &[],
    };
    let scale = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let bad = |block: &[u8]| places.iter().map(|at| scale(block, *at)).find(|scale| !scale.is_finite());
    blocks.bytes().par_chunks_exact(size).find_map_first(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_number_among_many_is_found() {
        let mut numbers = vec![1.5f32; 3 * PART + 7];
        assert_eq!(first_non_finite(&Elements::F32(&numbers)), None);
        numbers[2 * PART + 3] = f32::NEG_INFINITY;
        assert_eq!(first_non_finite(&Elements::F32(&numbers)), Some(f32::NEG_INFINITY));
        let mut halves = vec![f16::MAX; 5];
        assert_eq!(first_non_finite(&Elements::F16(&halves)), None);
        halves[4] = f16::NAN;
        assert!(first_non_finite(&Elements::F16(&halves)).unwrap().is_nan());
        let brains = [bf16::MAX, bf16::MIN_POSITIVE_SUBNORMAL, bf16::INFINITY];
        assert_eq!(first_non_finite(&Elements::Bf16(&brains[..2])), None);
        assert_eq!(first_non_finite(&Elements::Bf16(&brains)), Some(f32::INFINITY));
    }

    #[test]
    fn scales_of_every_kind_of_block_are_looked_at() {
        for kind in BlockKind::ALL {
            let (_, size) = kind.block();
            let mut bytes = vec![0u8; 3 * size];
            assert_eq!(first_non_finite(&Elements::Blocks(Blocks::new(*kind, &bytes))), None);
            let at = if *kind == BlockKind::Q6K { 3 * size - 2 } else { 2 * size };
            bytes[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            let found = first_non_finite(&Elements::Blocks(Blocks::new(*kind, &bytes)));
            assert!(found.unwrap().is_nan(), "{kind:?}");
        }
    }
}
