//! Products with quantised weights.

use super::*;

/// Dequantising while packing gives the bits of the product with a weight dequantised (and rounded) beforehand.
#[test]
fn quantised_weights_multiply_as_their_numbers_do() {
    for kind in BlockKind::ALL.iter().chain([&BlockKind::Nf4]) {
        let sizes =
            [(1, 40, 256), (5, 7, 512), (25, 70, 768), (13, 300, 1024), (3, 33, 96usize), (1, 33, 608)];
        for (m, n, k) in sizes {
            // `n` outputs of `k` inputs, and the same bytes transposed.
            let k = k.next_multiple_of(kind.block().0);
            let bytes = quantised(*kind, n, k, 5);
            let blocks = Blocks::new(*kind, &bytes);
            let mut wide = vec![0.0; n * k];
            blocks.read(0, &mut wide);
            let rounded: Vec<bf16> = wide.iter().map(|x| bf16::from_f32(*x)).collect();
            let (x, dy) = (numbers(m * k, 1), numbers(m * n, 2));
            let (x, dy) =
                (Operand::by_row(Elements::F32(&x), m, k), Operand::by_row(Elements::F32(&dy), m, n));
            for isa in Isa::available() {
                for (precision, plain) in [
                    (Precision::F32, Elements::F32(&wide)),
                    (Precision::Bf16, Elements::Bf16(&rounded)),
                    (Precision::Fixed, Elements::F32(&wide)),
                    (Precision::Split, Elements::F32(&wide)),
                ] {
                    // Without bf16 instructions the weight is not rounded.
                    let plain = if isa.has_bf16() { plain } else { Elements::F32(&wide) };
                    let forward = |w| product(isa, &x, &Operand::by_row(w, n, k), precision);
                    let backward = |w| product(isa, &dy, &Operand::by_column(w, n, k), precision);
                    // Sets of x86 multiply the stored integers.
                    let fixed =
                        precision == Precision::Fixed || precision == Precision::Bf16 && isa.fixes_bf16();
                    if !fixed || isa < Isa::Avx2 {
                        assert_eq!(
                            forward(Elements::Blocks(blocks)),
                            forward(plain),
                            "{kind:?} {isa:?} {m} {n} {k}"
                        );
                    }
                    assert_eq!(
                        backward(Elements::Blocks(blocks)),
                        backward(plain),
                        "{kind:?} {isa:?} {m} {n} {k}"
                    );
                }
            }
            // A subset of the outputs, as the head reads them.
            let part = Elements::Blocks(blocks).slice(k..n * k);
            assert_eq!(part.to_f32(), wide[k..]);
            assert_eq!(part.get(3).to_bits(), wide[k + 3].to_bits());
        }
    }
}

/// The worst case for fixed point: one of 64 numbers is 1000 times the others.
fn peaked(count: usize, seed: u32) -> Vec<f32> {
    gaussian(count, seed)
        .iter()
        .enumerate()
        .map(|(i, x)| if i % 64 == 17 { 1000.0 * x } else { *x })
        .collect()
}

/// One tile, only partial tiles, several blocks of `k` and of columns; `k` is rounded up to whole blocks.
const QUANTISED: [(usize, usize, usize); 6] =
    [(1, 40, 256), (5, 7, 512), (25, 70, 768), (13, 300, 1024), (37, 33, 96), (50, 577, 608)];

#[test]
fn quantised_products_are_a_thousandth_off_at_most() {
    for kind in BlockKind::ALL.iter().chain([&BlockKind::Nf4]) {
        for (m, n, k) in QUANTISED {
            let k = k.next_multiple_of(kind.block().0);
            let bytes = quantised(*kind, n, k, 5);
            let weight = Elements::Blocks(Blocks::new(*kind, &bytes));
            let wide = weight.to_f32();
            // Two roundings of 1.3e-4 each; peaked activations have one of 4e-4. With few peaked rows the product may
            // be small by chance, as it is a sum of few terms.
            let peaked = (m > 12).then_some((peaked as fn(usize, u32) -> Vec<f32>, 1e-3));
            for (numbers, most) in [(gaussian as fn(usize, u32) -> Vec<f32>, 3e-4)].into_iter().chain(peaked)
            {
                let (x, dy) = (numbers(m * k, 1), numbers(m * n, 2));
                let term = |x: f32| f64::from(x);
                let forward = reference(&|i, l| term(x[i * k + l]), &|l, j| term(wide[j * k + l]), m, n, k);
                let backward = reference(&|i, l| term(dy[i * n + l]), &|l, j| term(wide[l * k + j]), m, k, n);
                let (x, dy) =
                    (Operand::by_row(Elements::F32(&x), m, k), Operand::by_row(Elements::F32(&dy), m, n));
                for isa in Isa::available() {
                    let y = product(isa, &x, &Operand::by_row(weight, n, k), Precision::Fixed);
                    let dx = product(isa, &dy, &Operand::by_column(weight, n, k), Precision::Fixed);
                    for (got, want, way) in [(y, &forward, "forward"), (dx, &backward, "backward")] {
                        let off = distance(&got, want);
                        assert!(off <= most, "{kind:?} {isa:?} {way} {m} {n} {k}: {off:.1e}");
                    }
                }
            }
        }
    }
}

/// The integers of quantised weights by the definition of `fixed_chunk`, from the stored ones: Q8_0, which has only scales, and
/// Q4_1, which has minima.
#[test]
#[cfg(target_arch = "x86_64")]
fn stored_integers_have_the_bits_of_their_definition() {
    let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    // Scale, minimum and stored integers of a block.
    let parts = |kind: BlockKind, block: &[u8]| match kind {
        BlockKind::Q8_0 => {
            (half(block), 0.0, block[2..].iter().map(|q| i32::from(q.cast_signed())).collect::<Vec<_>>())
        }
        _ => {
            let nibble = |i: usize| i32::from(block[4 + i % 16] >> (i / 16 * 4) & 15);
            (half(block), half(&block[2..]), (0..32).map(nibble).collect())
        }
    };
    for (kind, most, shift) in [(BlockKind::Q8_0, 128.0, 8), (BlockKind::Q4_1, 15.0, 11)] {
        let (size, chunk) = (kind.block().1, 64);
        for (n, k) in [(5, 64), (37, 480)] {
            let bytes = quantised(kind, n, k, 9);
            let of_lane = |lane: usize| -> Vec<(Vec<i64>, f32)> {
                let all: Vec<_> = bytes[lane * k / 32 * size..][..k / 32 * size].chunks(size).collect();
                let chunks = all.chunks(chunk / 32).map(|blocks| {
                    let parts: Vec<_> = blocks.iter().map(|block| parts(kind, block)).collect();
                    let bound = |(s, m, _): &(f32, f32, Vec<i32>)| s.mul_add(most, *m).abs().max(m.abs());
                    let greatest = parts.iter().map(bound).fold(0.0, f32::max);
                    let inverse = 5780.0 / greatest;
                    let integers = parts.iter().flat_map(|(s, m, q)| {
                        let factor = (s * (inverse * (1 << (15 - shift)) as f32)).round_ties_even() as i64;
                        let minimum = (m * inverse).round_ties_even() as i64;
                        q.iter()
                            .map(move |q| (((i64::from(*q) << shift) * factor + (1 << 14)) >> 15) + minimum)
                    });
                    (integers.collect(), greatest * (1.0 / 5780.0))
                });
                chunks.collect()
            };
            let x = gaussian(k, 3);
            let greatest = |x: &[f32]| x.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
            let want: Vec<f32> = (0..n)
                .map(|lane| {
                    of_lane(lane).iter().zip(x.chunks(chunk)).fold(0.0, |sum: f32, ((b, of_b), a)| {
                        let (by, of_a) = (5792.0 / greatest(a), greatest(a) * (1.0 / 5792.0));
                        let integer = |x: &f32| (x * by).round_ties_even() as i64;
                        let total: i64 = a.iter().map(integer).zip(b).map(|(a, b)| a * b).sum();
                        (total as f32 * of_b).mul_add(of_a, sum)
                    })
                })
                .collect();
            for isa in Isa::available().filter(|isa| *isa >= Isa::Avx2) {
                let a = Operand::by_row(Elements::F32(&x), 1, k);
                let b = Operand::by_row(Elements::Blocks(Blocks::new(kind, &bytes)), n, k);
                assert_eq!(product(isa, &a, &b, Precision::Fixed), want, "{kind:?} {isa:?} {n} {k}");
            }
        }
    }
}

#[test]
fn quantised_products_depend_on_neither_rows_nor_threads() {
    let pools: Vec<_> =
        [1, 2, 3].iter().map(|&t| rayon::ThreadPoolBuilder::new().num_threads(t).build().unwrap()).collect();
    for kind in BlockKind::ALL.iter().chain([&BlockKind::Nf4]) {
        let (n, k) = (577, 768);
        let bytes = quantised(*kind, n, k, 3);
        let weight = Elements::Blocks(Blocks::new(*kind, &bytes));
        let (x, dy) = (gaussian(60 * k, 1), gaussian(60 * n, 2));
        let products = |m: usize| {
            let (x, dy) = (&x[..m * k], &dy[..m * n]);
            let (x, dy) = (Operand::by_row(Elements::F32(x), m, k), Operand::by_row(Elements::F32(dy), m, n));
            [
                gemm(&x, &Operand::by_row(weight, n, k), Precision::of(&weight)),
                gemm(&dy, &Operand::by_column(weight, n, k), Precision::of(&weight)),
            ]
        };
        let whole = products(60);
        for (m, pool) in [1, 3, 11, 14, 60].into_iter().flat_map(|m| pools.iter().map(move |p| (m, p))) {
            for (part, whole) in pool.install(|| products(m)).iter().zip(&whole) {
                let same = part.iter().zip(whole).all(|(x, y)| x.to_bits() == y.to_bits());
                assert!(same, "{kind:?} {m} rows");
            }
        }
    }
}
