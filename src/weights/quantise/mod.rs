//! Quantises numbers into ggml's blocks: the inverse of [`Blocks`](super::Blocks), which documents how they are read.
//!
//! In blocks of 32 numbers the extremes give the scale (`quantize_row_q4_0_ref` and the like in `ggml-quants.c`). In
//! super-blocks of 256 numbers a search finds scales with a small error. It is the one that ggml uses with an
//! importance matrix (`quantize_row_q4_K_impl`), here with the same importance for every number. The bytes are those of
//! candle-core 0.11.1, with which the tests compare.

mod affine;
mod basic;
mod packing;
mod q6k;
mod rounding;
mod search;
#[cfg(test)]
mod tests;

use super::BlockKind;
use crate::error::{Error, Result};

/// Encodes `numbers`, which must be whole blocks, into all of `bytes`. A block depends only on its own numbers.
///
/// The root mean square error is at most 3 % above that of ggml's `ggml_quantize_chunk` without an importance matrix.
///
/// # Errors
/// If `numbers` are not whole blocks, the length of `bytes` does not match, or the type is not one of ggml's.
pub fn quantise(kind: BlockKind, numbers: &[f32], bytes: &mut [u8]) -> Result<()> {
    let (block, size) = kind.block();
    if !numbers.len().is_multiple_of(block) || numbers.len() / block * size != bytes.len() {
        return Err(Error::Weights(format!(
            "{} numbers into {} bytes of {}",
            numbers.len(),
            bytes.len(),
            kind.name()
        )));
    }
    match kind {
        BlockKind::Q4_0 => each(numbers, bytes, basic::q4_0),
        BlockKind::Q4_1 => each(numbers, bytes, basic::q4_1),
        BlockKind::Q5_0 => each(numbers, bytes, basic::q5_0),
        BlockKind::Q5_1 => each(numbers, bytes, basic::q5_1),
        BlockKind::Q8_0 => each(numbers, bytes, basic::q8_0),
        BlockKind::Q4K => each(numbers, bytes, affine::q4_k),
        BlockKind::Q5K => each(numbers, bytes, affine::q5_k),
        BlockKind::Q6K => each(numbers, bytes, q6k::q6_k),
        BlockKind::Nf4 => return Err(Error::Weights(format!("{} is not a type of ggml", kind.name()))),
    }
    Ok(())
}

/// Encodes block by block: `N` numbers into `SIZE` bytes.
fn each<const N: usize, const SIZE: usize>(
    numbers: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; SIZE]),
) {
    let (numbers, bytes) = (numbers.as_chunks().0, bytes.as_chunks_mut().0);
    for (numbers, block) in numbers.iter().zip(bytes) {
        encode(numbers, block);
    }
}
