//! Bytes are compared with candle's quantisers, errors with ggml's.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;
use crate::random::Stream;
use crate::weights::Blocks;

/// Numbers of the largest block.
const SUPER: usize = 256;

fn ours(kind: BlockKind, numbers: &[f32]) -> Vec<u8> {
    let (block, size) = kind.block();
    let mut bytes = vec![0xa5; numbers.len() / block * size];
    quantise(kind, numbers, &mut bytes).unwrap();
    bytes
}

/// candle's bytes; for super-blocks those of its search with an importance, which is the same for all.
fn candles(kind: BlockKind, numbers: &[f32]) -> Vec<u8> {
    let (dtype, super_blocks) = match kind {
        BlockKind::Q4_0 => (GgmlDType::Q4_0, false),
        BlockKind::Q4_1 => (GgmlDType::Q4_1, false),
        BlockKind::Q5_0 => (GgmlDType::Q5_0, false),
        BlockKind::Q5_1 => (GgmlDType::Q5_1, false),
        BlockKind::Q8_0 => (GgmlDType::Q8_0, false),
        BlockKind::Q4K => (GgmlDType::Q4K, true),
        BlockKind::Q5K => (GgmlDType::Q5K, true),
        BlockKind::Q6K => (GgmlDType::Q6K, true),
        BlockKind::Nf4 => panic!("not a type of ggml"),
    };
    let row = Tensor::from_slice(numbers, (1, numbers.len()), &Device::Cpu).unwrap();
    let made = if super_blocks {
        QTensor::quantize_imatrix(&row, &vec![1.0; numbers.len()], dtype)
    } else {
        QTensor::quantize(&row, dtype)
    };
    made.unwrap().data().unwrap().to_vec()
}

/// A block of `uniform` and `normal` numbers, which are functions of an index.
type Make = fn(&dyn Fn(usize) -> f32, &dyn Fn(usize) -> f32) -> Vec<f32>;

fn all(number: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..SUPER).map(number).collect()
}

/// A finite number of random bits.
fn bits(uniform: f32, sign: f32) -> f32 {
    f32::from_bits((uniform * 0x7f7f_ffff as f32) as u32).copysign(sign)
}

/// Kinds of blocks. An index that is no number's varies a block as a whole.
const SHAPES: &[(&str, Make)] = &[
    ("normal", |_, n| all(n)),
    ("weights of a model", |_, n| all(|i| 0.02 * n(i))),
    ("uniform", |u, _| all(|i| u(i) - 0.5)),
    ("positive", |u, _| all(u)),
    ("negative", |u, _| all(|i| -u(i))),
    ("far from zero", |u, n| all(|i| 1000.0 * u(999) + n(i))),
    ("heavy tails", |_, n| all(|i| n(i).powi(7))),
    ("every exponent", |u, n| all(|i| n(i) * (200.0 * u(i) - 100.0).exp2())),
    ("constant", |u, n| all(|_| bits(u(0), n(0)))),
    ("constant sub-blocks", |u, n| all(|i| n(1000 + i / 32) * (u(2000 + i / 32) * 8.0).floor())),
    ("two values", |u, n| all(|i| if u(i) < 0.5 { n(1000) } else { n(1001) })),
    ("opposites", |u, n| all(|i| if u(i) < 0.5 { n(1000) } else { -n(1000) })),
    ("one-hot", |u, n| all(|i| if i == (u(0) * 256.0) as usize { n(1000) } else { 0.0 })),
    ("almost one-hot", |u, n| all(|i| if i == (u(0) * 256.0) as usize { 1e4 * n(1000) } else { n(i) })),
    ("sparse", |u, n| all(|i| if u(i) < 0.05 { n(i) } else { 0.0 })),
    ("outliers that halve", |u, _| all(|i| (-(i as f32) * u(999)).exp2())),
    // Multiples of a fraction of the largest: halves, which are rounded away from zero.
    ("multiples of a 64th", |u, _| {
        all(|i| if i % 16 == 0 { -32.0 } else { (u(i) * 128.0 - 64.0).round() / 2.0 })
    }),
    ("multiples of a 15th", |u, _| all(|i| (u(i) * 30.0).round() / 2.0)),
    ("multiples of a 31st", |u, _| all(|i| (u(i) * 62.0).round() / 2.0 * 3.0)),
    ("few integers", |u, _| all(|i| (u(i) * 5.0).floor() - 2.0)),
    ("ramp", |u, _| all(|i| (i as f32 - 300.0 * u(999)) / 7.0)),
    ("tiny", |_, n| all(|i| 1e-37 * n(i))),
    ("below the halves", |_, n| all(|i| 1e-9 * n(i))),
    ("denormal", |u, n| all(|i| f32::from_bits((u(i) * 8_388_607.0) as u32).copysign(n(i)))),
    ("few denormals", |u, n| all(|i| f32::from_bits((u(i) * 40.0) as u32).copysign(n(i)))),
    ("normal and denormal", |u, n| {
        all(|i| if u(i) < 0.5 { n(i) } else { f32::from_bits((u(i) * 9e6) as u32) })
    }),
    ("beyond the halves", |_, n| all(|i| 1e6 * n(i))),
    ("large", |_, n| all(|i| 1e17 * n(i))),
    ("squares overflow", |_, n| all(|i| 1e25 * n(i))),
    ("huge", |u, n| all(|i| f32::MAX * (0.5 + 0.5 * u(i)).copysign(n(i)))),
    ("random bits", |u, n| all(|i| bits(u(i), n(i)))),
    ("zero", |_, _| all(|_| 0.0)),
    ("zero of both signs", |_, n| all(|i| 0f32.copysign(n(i)))),
    ("zero and normal groups", |u, n| all(|i| if u(1000 + i / 16) < 0.5 { 0.0 } else { n(i) })),
];

/// `count` blocks of a shape, one after the other.
fn blocks(name: &str, make: Make, count: u64) -> Vec<f32> {
    let stream = Stream::new(7, name);
    let mut numbers = Vec::new();
    for block in 0..count {
        let uniform = |i: usize| stream.uniform(block << 16 | i as u64);
        let normal = |i: usize| {
            let (radius, angle) = (uniform(2 * i + 20_000).max(1e-7), uniform(2 * i + 20_001));
            (-2.0 * radius.ln()).sqrt() * (angle * std::f32::consts::TAU).cos()
        };
        numbers.extend(make(&uniform, &normal));
    }
    numbers
}

#[test]
fn bytes_are_candles() {
    for (name, make) in SHAPES {
        let numbers = blocks(name, *make, 100);
        assert!(numbers.iter().all(|x| x.is_finite()), "{name}");
        for kind in BlockKind::ALL {
            let (found, want) = (ours(*kind, &numbers), candles(*kind, &numbers));
            let (block, size) = kind.block();
            for (i, (found, want)) in found.chunks(size).zip(want.chunks(size)).enumerate() {
                assert_eq!(
                    found,
                    want,
                    "{kind:?} of {name}, block {i}: {:?}",
                    &numbers[i * block..][..block]
                );
            }
        }
    }
}

#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    let numbers = blocks("neighbours", SHAPES[0].1, 3);
    for kind in BlockKind::ALL {
        let (block, size) = kind.block();
        let together = ours(*kind, &numbers);
        for (numbers, bytes) in numbers.chunks(block).zip(together.chunks(size)) {
            assert_eq!(ours(*kind, numbers), bytes, "{kind:?}");
        }
    }
}

fn error(kind: BlockKind, numbers: &[f32]) -> f64 {
    let bytes = ours(kind, numbers);
    let mut back = vec![0.0; numbers.len()];
    Blocks::new(kind, &bytes).read(0, &mut back);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let lost: f64 = numbers.iter().zip(&back).map(|(a, b)| square(a - b)).sum();
    (lost / numbers.iter().map(|x| square(*x)).sum::<f64>().max(1e-30)).sqrt()
}

/// The relative root mean square error of `ggml_quantize_chunk` on standard normal numbers.
#[test]
fn errors_are_those_of_ggmls_own_quantisers() {
    let numbers = blocks("normal", SHAPES[0].1, 64);
    for (kind, ggml) in [
        (BlockKind::Q4K, 0.0715),
        (BlockKind::Q5K, 0.0363),
        (BlockKind::Q6K, 0.0178),
        (BlockKind::Q5_0, 0.0428),
        (BlockKind::Q8_0, 0.00537),
    ] {
        let found = error(kind, &numbers);
        assert!((0.95..1.03).contains(&(found / ggml)), "{kind:?}: {found} against ggml's {ggml}");
    }
}

#[test]
fn odd_blocks_are_encoded_or_refused() {
    for kind in BlockKind::ALL {
        assert_eq!(error(*kind, &[0.0; 512]), 0.0, "{kind:?}");
        assert!(error(*kind, &[-3.5; 256]) < 0.05, "{kind:?}");
        let mut one = [0.0; 256];
        one[77] = 1e-3;
        assert!(error(*kind, &one) < 0.1, "{kind:?}");
        assert!(quantise(*kind, &[0.0; 31], &mut [0; 400]).is_err());
        assert!(quantise(*kind, &[0.0; 256], &mut [0; 3]).is_err());
        assert!(quantise(*kind, &[], &mut []).is_ok());
    }
    assert!(quantise(BlockKind::Nf4, &[0.0; 64], &mut [0; 36]).unwrap_err().to_string().contains("NF4"));
}
