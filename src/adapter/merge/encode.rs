//! Encodes numbers in their storage types, and measures the rounding error.

use std::io::Result;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::ops::simd::vectorised;
use crate::weights::{BlockKind, Blocks, DType, quantise};

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// One by one.
    Float(DType),
    /// In ggml's blocks; a row consists of whole blocks.
    Blocks(BlockKind),
}

impl Encoding {
    /// Bytes of this many numbers, which must be whole blocks.
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            Self::Float(dtype) => numbers * dtype.size(),
            Self::Blocks(kind) => numbers / kind.block().0 * kind.block().1,
        }
    }
}

/// What was added to a tensor, and the error of its storage type.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stock {
    /// Sum of squares of what was added.
    pub delta: f64,
    /// Sum of squares of the rounding errors.
    pub rounding: f64,
    /// The largest rounding error.
    pub largest: f64,
    /// Whether a finite number became infinite or NaN.
    pub overflows: bool,
}

impl Stock {
    pub fn and(self, other: Self) -> Self {
        Self {
            delta: self.delta + other.delta,
            rounding: self.rounding + other.rounding,
            largest: self.largest.max(other.largest),
            overflows: self.overflows | other.overflows,
        }
    }
}

/// Encodes slices of numbers.
#[derive(Default)]
pub(super) struct Encoder {
    before: Vec<f32>,
    /// The numbers as a reader will see them.
    stored: Vec<f32>,
    bf16: Vec<u16>,
    f16: Vec<f16>,
}

impl Encoder {
    /// A buffer for the original numbers of the next slice.
    pub fn before(&mut self, numbers: usize) -> &mut [f32] {
        self.before.resize(numbers, 0.0);
        &mut self.before
    }

    /// Encodes `exact`, rounded to nearest even, into all of `bytes`.
    ///
    /// # Errors
    /// If a block is incomplete.
    pub fn encode(&mut self, encoding: Encoding, exact: &[f32], bytes: &mut [u8]) -> Result<Stock> {
        let Self { before, stored, bf16, f16 } = self;
        if encoding == Encoding::Float(DType::F32) {
            bytes.copy_from_slice(bytemuck::cast_slice(exact));
            return Ok(take(before, exact, exact));
        }
        stored.resize(exact.len(), 0.0);
        match encoding {
            Encoding::Blocks(kind) => {
                quantise(kind, exact, bytes).map_err(std::io::Error::other)?;
                Blocks::new(kind, bytes).read(0, stored);
            }
            Encoding::Float(DType::F16) => {
                f16.resize(exact.len(), f16::ZERO);
                f16.convert_from_f32_slice(exact);
                f16.convert_to_f32_slice(stored);
                bytes.copy_from_slice(bytemuck::cast_slice(f16));
            }
            Encoding::Float(_) => {
                bf16.resize(exact.len(), 0);
                round_to_bf16(exact, bf16, stored);
                bytes.copy_from_slice(bytemuck::cast_slice(bf16));
            }
        }
        Ok(take(before, exact, stored))
    }
}

vectorised! {
    /// As f32; a signalling NaN becomes a quiet one, as in `half`.
    pub(super) fn widen_bf16(narrow: &[bf16], wide: &mut [f32]) {
        let _ = FMA;
        for (narrow, wide) in narrow.iter().zip(wide) {
            let bits = u32::from(narrow.to_bits()) << 16;
            let quiet = if bits & 0x7fff_ffff > INFINITE { 0x0040_0000 } else { 0 };
            *wide = f32::from_bits(bits | quiet);
        }
    }
}

vectorised! {
    /// The upper halves of `exact`, rounded to nearest even (a NaN stays one), and their values as f32.
    fn round_to_bf16(exact: &[f32], narrow: &mut [u16], stored: &mut [f32]) {
        let _ = FMA;
        for ((exact, narrow), stored) in exact.iter().zip(narrow).zip(stored) {
            let bits = exact.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            let upper = if exact.is_nan() { bits | 0x0040_0000 } else { rounded } >> 16;
            *narrow = upper as u16;
            *stored = f32::from_bits(upper << 16);
        }
    }
}

/// Bits of an infinity, which are the exponent's.
const INFINITE: u32 = 0x7f80_0000;
/// Running sums, added in a fixed order at the end.
const LANES: usize = 16;

vectorised! {
    /// Adds a slice: original, exact, and as stored.
    fn take(before: &[f32], exact: &[f32], stored: &[f32]) -> Stock {
        let _ = FMA;
        let (mut delta, mut rounding, mut largest) = ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
        let mut overflows = [0u32; LANES];
        let finite = |x: f32| x.to_bits() & INFINITE != INFINITE;
        let mut run = |before: &[f32], exact: &[f32], stored: &[f32]| {
            for (lane, ((before, exact), stored)) in before.iter().zip(exact).zip(stored).enumerate() {
                let added = f64::from(*exact) - f64::from(*before);
                let lost = f64::from(*stored) - f64::from(*exact);
                delta[lane] += added * added;
                rounding[lane] += lost * lost;
                // NaNs are skipped.
                largest[lane] = if lost.abs() > largest[lane] { lost.abs() } else { largest[lane] };
                overflows[lane] |= u32::from(finite(*before) & !finite(*stored));
            }
        };
        let whole = exact.len() / LANES * LANES;
        let runs = before.chunks_exact(LANES).zip(exact.chunks_exact(LANES)).zip(stored.chunks_exact(LANES));
        runs.for_each(|((before, exact), stored)| run(before, exact, stored));
        run(&before[whole..], &exact[whole..], &stored[whole..]);
        Stock {
            delta: delta.iter().sum(),
            rounding: rounding.iter().sum(),
            largest: largest.iter().copied().fold(0.0, f64::max),
            overflows: overflows.iter().any(|x| *x != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sign and exponent, with the bits that decide about rounding.
    fn numbers() -> Vec<f32> {
        let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_8000, 0x7f_7fff, 0x7f_8000, 0x7f_ffff];
        (0..512u32).flat_map(|top| lower.map(|low| f32::from_bits(top << 23 | low))).collect()
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        let exact = numbers();
        let (mut encoder, mut bytes) = (Encoder::default(), vec![0; exact.len() * 2]);
        encoder.before(exact.len()).copy_from_slice(&exact);
        let stock = encoder.encode(Encoding::Float(DType::Bf16), &exact, &mut bytes).unwrap();
        for (exact, bytes) in exact.iter().zip(bytes.chunks_exact(2)) {
            let found = u16::from_le_bytes([bytes[0], bytes[1]]);
            assert_eq!(found, bf16::from_f32(*exact).to_bits(), "{exact:e}");
        }
        assert!(stock.overflows, "the largest f32 is no bf16");
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        widen_bf16(&all, &mut wide);
        assert!(all.iter().zip(&wide).all(|(narrow, wide)| narrow.to_f32().to_bits() == wide.to_bits()));
    }

    #[test]
    fn stock_is_what_was_added_and_lost() {
        // 37 numbers: two whole runs of lanes and a rest.
        let before: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let exact: Vec<f32> = before.iter().enumerate().map(|(i, x)| x + i as f32 / 512.0).collect();
        for (encoding, stored) in [
            (DType::Bf16, exact.iter().map(|x| bf16::from_f32(*x).to_f32()).collect::<Vec<_>>()),
            (DType::F16, exact.iter().map(|x| f16::from_f32(*x).to_f32()).collect()),
            (DType::F32, exact.clone()),
        ] {
            let (mut encoder, mut bytes) = (Encoder::default(), vec![0; 37 * encoding.size()]);
            encoder.before(37).copy_from_slice(&before);
            let stock = encoder.encode(Encoding::Float(encoding), &exact, &mut bytes).unwrap();
            let squares = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
            };
            assert!((stock.delta / squares(&exact, &before) - 1.0).abs() < 1e-12);
            assert!((stock.rounding - squares(&stored, &exact)).abs() <= 1e-12 * stock.rounding);
            let largest =
                stored.iter().zip(&exact).map(|(s, e)| f64::from((s - e).abs())).fold(0.0, f64::max);
            assert_eq!((stock.largest, stock.overflows), (largest, false));
        }
        let mut encoder = Encoder::default();
        encoder.before(17).fill(1.0);
        let mut exact = [1.0; 17];
        let mut overflows = |exact: &[f32]| {
            encoder.encode(Encoding::Float(DType::F16), exact, &mut [0; 34]).unwrap().overflows
        };
        assert!(!overflows(&exact));
        exact[16] = 7e4;
        assert!(overflows(&exact), "f16 ends at 65504");
    }
}
