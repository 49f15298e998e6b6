//! Quantises numbers into ggml's blocks, with candle's quantisers.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::BlockKind;
use crate::error::{Error, Result};

/// Encodes `numbers`, which must be whole blocks, into all of `bytes`.
///
/// Super-blocks use the search that weighs numbers by importance, with the same importance for all: its error is within
/// 2 % of ggml's own search. candle's plain search is an older one of ggml's.
///
/// # Errors
/// If `numbers` are not whole blocks, or the length of `bytes` does not match.
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
    if numbers.is_empty() {
        return Ok(());
    }
    let failed = |e: candle_core::Error| Error::Weights(e.to_string());
    let row = Tensor::from_slice(numbers, (1, numbers.len()), &Device::Cpu).map_err(failed)?;
    let (dtype, super_blocks) =
        ggml(kind).ok_or_else(|| Error::Weights(format!("{} is not a type of ggml", kind.name())))?;
    let made = if super_blocks {
        QTensor::quantize_imatrix(&row, &vec![1.0; numbers.len()], dtype).map_err(failed)?
    } else {
        QTensor::quantize(&row, dtype).map_err(failed)?
    };
    bytes.copy_from_slice(&made.data().map_err(failed)?);
    Ok(())
}

/// candle's type, and whether it is one of super-blocks.
fn ggml(kind: BlockKind) -> Option<(GgmlDType, bool)> {
    Some(match kind {
        BlockKind::Q4_0 => (GgmlDType::Q4_0, false),
        BlockKind::Q4_1 => (GgmlDType::Q4_1, false),
        BlockKind::Q5_0 => (GgmlDType::Q5_0, false),
        BlockKind::Q5_1 => (GgmlDType::Q5_1, false),
        BlockKind::Q8_0 => (GgmlDType::Q8_0, false),
        BlockKind::Q4K => (GgmlDType::Q4K, true),
        BlockKind::Q5K => (GgmlDType::Q5K, true),
        BlockKind::Q6K => (GgmlDType::Q6K, true),
        BlockKind::Nf4 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::weights::Blocks;

    fn normal(count: usize) -> Vec<f32> {
        let stream = Stream::new(5, "normal");
        let uniform = |i: usize| f64::from(stream.uniform(i as u64)).max(1e-9);
        (0..count)
            .map(|i| {
                let (radius, angle) =
                    ((-2.0 * uniform(2 * i).ln()).sqrt(), uniform(2 * i + 1) * std::f64::consts::TAU);
                (radius * angle.cos()) as f32
            })
            .collect()
    }

    fn error(kind: BlockKind, numbers: &[f32]) -> f64 {
        let (block, size) = kind.block();
        let mut bytes = vec![0; numbers.len() / block * size];
        quantise(kind, numbers, &mut bytes).unwrap();
        let mut back = vec![0.0; numbers.len()];
        Blocks::new(kind, &bytes).read(0, &mut back);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let lost: f64 = numbers.iter().zip(&back).map(|(a, b)| square(a - b)).sum();
        (lost / numbers.iter().map(|x| square(*x)).sum::<f64>().max(1e-30)).sqrt()
    }

    /// Relative root mean square error of `ggml_quantize_chunk` on standard normal numbers.
    #[test]
    fn errors_are_those_of_ggmls_own_quantisers() {
        let numbers = normal(64 * 256);
        for (kind, ggml) in [
            (BlockKind::Q4K, 0.0715),
            (BlockKind::Q5K, 0.0363),
            (BlockKind::Q6K, 0.0178),
            (BlockKind::Q5_0, 0.0428),
            (BlockKind::Q8_0, 0.00537),
        ] {
            let found = error(kind, &numbers);
            assert!((found / ggml - 1.0).abs() < 0.03, "{kind:?}: {found} against ggml's {ggml}");
        }
    }

    #[test]
    fn odd_blocks_are_encoded_or_refused() {
        for kind in [BlockKind::Q4K, BlockKind::Q5K, BlockKind::Q6K, BlockKind::Q5_0, BlockKind::Q8_0] {
            assert_eq!(error(kind, &[0.0; 512]), 0.0, "{kind:?}");
            assert!(error(kind, &[-3.5; 256]) < 0.05, "{kind:?}");
            let mut one = [0.0; 256];
            one[77] = 1e-3;
            assert!(error(kind, &one) < 0.1, "{kind:?}");
            assert!(quantise(kind, &[0.0; 31], &mut [0; 400]).is_err());
            assert!(quantise(kind, &[0.0; 256], &mut [0; 3]).is_err());
        }
    }
}
