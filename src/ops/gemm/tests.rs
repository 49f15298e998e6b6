mod fixed;
mod quantised;

use half::{bf16, f16};

use super::*;
use crate::weights::{BlockKind, Blocks};

/// Returns a deterministic, sign-changing sequence with many distinct mantissas.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| {
            let x = (i.wrapping_add(seed)).wrapping_mul(2_654_435_761) >> 8;
            x as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Computes the product in f64, the reference for every path.
fn reference(
    a: &dyn Fn(usize, usize) -> f64,
    b: &dyn Fn(usize, usize) -> f64,
    m: usize,
    n: usize,
    k: usize,
) -> Vec<f64> {
    (0..m * n).map(|i| (0..k).map(|l| a(i / n, l) * b(l, i % n)).sum()).collect()
}

fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance, "{what}: [{i}] {g} against {w}");
    }
}

/// Miri runs only the first seven; the others take too many steps.
const SIZES: &[(usize, usize, usize)] = ALL_SIZES.split_at(if cfg!(miri) { 7 } else { 11 }).0;
const ALL_SIZES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (1, 40, 70),
    (4, 16, 33),
    (5, 7, 3),
    (12, 32, 64),
    (13, 33, 65),
    (3, 5, 270),
    (16, 100, 31),
    (25, 70, 257),
    (40, 16, 520),
    (37, 300, 600),
];

fn product(isa: Isa, a: &Operand, b: &Operand, precision: Precision) -> Vec<f32> {
    let mut out = vec![f32::NAN; a.lanes * b.lanes];
    let packed = Packed::with(isa, a, precision, true);
    let window = Window { data: out.as_mut_ptr(), stride: b.lanes };
    run(&window, &[Segment { a: &packed, b: *b }], false, true);
    out
}

#[test]
fn every_path_agrees_with_f64_in_every_layout() {
    for isa in Isa::available() {
        for &(m, n, k) in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 77));
            let want = reference(&|i, l| a[i * k + l].into(), &|l, j| b[j * k + l].into(), m, n, k);
            let row_b = Operand::by_row(Elements::F32(&b), n, k);
            let got = product(isa, &Operand::by_row(Elements::F32(&a), m, k), &row_b, Precision::F32);
            assert_close(&got, &want, 1e-5 * (k as f64).sqrt(), &format!("{isa:?} {m} {n} {k} rows"));

            let want = reference(&|i, l| a[l * m + i].into(), &|l, j| b[l * n + j].into(), m, n, k);
            let columns =
                (Operand::by_column(Elements::F32(&a), k, m), Operand::by_column(Elements::F32(&b), k, n));
            let got = product(isa, &columns.0, &columns.1, Precision::F32);
            assert_close(&got, &want, 1e-5 * (k as f64).sqrt(), &format!("{isa:?} {m} {n} {k} columns"));
        }
    }
}

#[test]
fn half_precision_weights_agree_with_f64() {
    for isa in Isa::available() {
        for &(m, n, k) in SIZES {
            let a: Vec<f32> = numbers(m * k, 5).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
            let b: Vec<bf16> = numbers(k * n, 9).into_iter().map(bf16::from_f32).collect();
            let h: Vec<f16> = numbers(k * n, 9).into_iter().map(f16::from_f32).collect();
            let row_a = Operand::by_row(Elements::F32(&a), m, k);
            // `a` is exact in bf16, so both precisions must reach f32 accuracy, but for the rounding of fixed point.
            let exact = 1e-5 * (k as f64).sqrt();
            for precision in [Precision::F32, Precision::Bf16] {
                let fixed = precision == Precision::Bf16 && isa.fixes_bf16();
                let tolerance = if fixed { 3e-4 * (k as f64).sqrt() } else { exact };
                let want = reference(&|i, l| a[i * k + l].into(), &|l, j| b[j * k + l].to_f64(), m, n, k);
                let got = product(isa, &row_a, &Operand::by_row(Elements::Bf16(&b), n, k), precision);
                assert_close(&got, &want, tolerance, &format!("{isa:?} {m} {n} {k} {precision:?} rows"));
                let want = reference(&|i, l| a[i * k + l].into(), &|l, j| b[l * n + j].to_f64(), m, n, k);
                let got = product(isa, &row_a, &Operand::by_column(Elements::Bf16(&b), k, n), precision);
                assert_close(&got, &want, tolerance, &format!("{isa:?} {m} {n} {k} {precision:?} columns"));
            }
            let want = reference(&|i, l| a[i * k + l].into(), &|l, j| h[j * k + l].to_f64(), m, n, k);
            let got = product(isa, &row_a, &Operand::by_row(Elements::F16(&h), n, k), Precision::F32);
            assert_close(&got, &want, exact, &format!("{isa:?} {m} {n} {k} f16 rows"));
            let want = reference(&|i, l| a[i * k + l].into(), &|l, j| h[l * n + j].to_f64(), m, n, k);
            let got = product(isa, &row_a, &Operand::by_column(Elements::F16(&h), k, n), Precision::F32);
            assert_close(&got, &want, exact, &format!("{isa:?} {m} {n} {k} f16 columns"));
        }
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_the_other_rows_or_the_threads() {
    let (n, k) = (77, 700);
    let (a, b) = (numbers(300 * k, 3), numbers(n * k, 4));
    let weight: Vec<bf16> = b.iter().copied().map(bf16::from_f32).collect();
    let pools: Vec<_> =
        [1, 3].iter().map(|&t| rayon::ThreadPoolBuilder::new().num_threads(t).build().unwrap()).collect();
    for isa in Isa::available() {
        for (elements, precision) in [
            (Elements::F32(&b), Precision::F32),
            (Elements::Bf16(&weight), Precision::Bf16),
            (Elements::F32(&b), Precision::Fixed),
            (Elements::F32(&b), Precision::Split),
        ] {
            let weight = Operand::by_row(elements, n, k);
            let whole = product(isa, &Operand::by_row(Elements::F32(&a), 300, k), &weight, precision);
            for (m, pool) in
                [1, 2, 5, 12, 19, 100].into_iter().flat_map(|m| pools.iter().map(move |p| (m, p)))
            {
                let part = pool.install(|| {
                    product(isa, &Operand::by_row(Elements::F32(&a[..m * k]), m, k), &weight, precision)
                });
                let same = part.iter().zip(&whole).all(|(x, y)| x.to_bits() == y.to_bits());
                assert!(same, "{isa:?} {precision:?} {m} rows");
            }
        }
    }
}

#[test]
fn a_sum_of_products_adds_its_segments_in_order() {
    for isa in Isa::available() {
        for (m, n, ks) in [(1, 40, [70, 16, 3]), (13, 33, [600, 16, 520]), (40, 16, [5, 300, 1])] {
            let mut want = vec![0.0; m * n];
            let data: Vec<_> = (0..3).map(|i| (numbers(m * ks[i], 1), numbers(n * ks[i], 7))).collect();
            let exact: Vec<Vec<f32>> =
                data.iter().map(|(a, _)| a.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()).collect();
            let halves: Vec<bf16> = data[0].1.iter().copied().map(bf16::from_f32).collect();
            let packed: Vec<Packed> = (0..3)
                .map(|i| {
                    let a = Operand::by_row(Elements::F32(&exact[i]), m, ks[i]);
                    Packed::with(isa, &a, if i == 0 { Precision::Bf16 } else { Precision::F32 }, true)
                })
                .collect();
            let segments: Vec<Segment> = (0..3)
                .map(|i| {
                    let b = if i == 0 { Elements::Bf16(&halves) } else { Elements::F32(&data[i].1) };
                    let term = |r: usize, l: usize| f64::from(exact[i][r * ks[i] + l]);
                    let part = reference(&term, &|l, j| b.get(j * ks[i] + l).into(), m, n, ks[i]);
                    want.iter_mut().zip(part).for_each(|(w, p)| *w += p);
                    Segment { a: &packed[i], b: Operand::by_row(b, n, ks[i]) }
                })
                .collect();
            let got = sum_of_products(&segments);
            let near = if isa.fixes_bf16() { 3e-4 * (ks[0] as f64).sqrt() } else { 5e-4 };
            assert_close(&got, &want, near, &format!("{isa:?} {m} {n} {ks:?}"));
            let mut twice = got.clone();
            add_products(&mut twice, &segments);
            want.iter_mut().for_each(|w| *w *= 2.0);
            assert_close(&twice, &want, 2.0 * near, &format!("{isa:?} {m} {n} {ks:?} added"));
        }
    }
}

/// Checks windows with margins, accumulation, and left operands of either layout, on every path.
#[test]
fn partial_tiles_write_their_corner_alone() {
    for isa in Isa::available() {
        for (m, n, k) in [(1, 1, 5), (14, 20, 9), (16, 16, 64), (33, 70, 100), (64, 64, 700)] {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let turned: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            let b = Operand::by_row(Elements::F32(&b), n, k);
            for precision in [Precision::F32, Precision::Bf16, Precision::Fixed, Precision::Split] {
                let rows = Packed::with(isa, &Operand::by_row(Elements::F32(&a), m, k), precision, false);
                let columns = Operand::by_column(Elements::F32(&turned), k, m);
                let columns = Packed::with(isa, &columns, precision, false);
                let plain = product(isa, &Operand::by_row(Elements::F32(&a), m, k), &b, precision);
                let stride = n + 10;
                for a in [&rows, &columns] {
                    let mut wide = vec![7.0; (m + 2) * stride];
                    serial(&mut wide[stride + 3..], stride, &[Segment { a, b }], false);
                    serial(&mut wide[stride + 3..], stride, &[Segment { a, b }], true);
                    for (i, x) in wide.iter().enumerate() {
                        let (row, column) = (i / stride, i % stride);
                        let inside = (1..=m).contains(&row) && (3..n + 3).contains(&column);
                        let want = if inside { 2.0 * plain[(row - 1) * n + column - 3] } else { 7.0 };
                        let near = if inside { 1e-5 * (1.0 + want.abs()) } else { 0.0 };
                        assert!(
                            (x - want).abs() <= near,
                            "{isa:?} {precision:?} {m} {n} {k} [{row}, {column}]"
                        );
                    }
                }
            }
        }
    }
}

/// Two bf16 terms hold 16 bits. Relative to ‖a‖·‖b‖ of a row and a column, rounding each operand moves the product by
/// 2⁻¹⁷, and the omitted low·low by 2⁻¹⁸.
#[test]
fn split_products_keep_sixteen_bits() {
    for isa in Isa::available() {
        for &(m, n, k) in SIZES {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 77));
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let operand = Operand::by_row(Elements::F32(&a), m, k);
            for by_row in [true, false] {
                let at = |l: usize, j: usize| if by_row { j * k + l } else { l * n + j };
                let want = reference(&|i, l| a[i * k + l].into(), &|l, j| b[at(l, j)].into(), m, n, k);
                let right = match by_row {
                    true => Operand::by_row(Elements::F32(&b), n, k),
                    false => Operand::by_column(Elements::F32(&b), k, n),
                };
                let got = product(isa, &operand, &right, Precision::Split);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let row = norm(&mut a[i / n * k..][..k].iter().copied());
                    let column = norm(&mut (0..k).map(|l| b[at(l, i % n)]));
                    let off = (f64::from(*got) - want).abs() / (row * column);
                    assert!(off <= 2f64.powi(-15), "{isa:?} {m} {n} {k} [{i}]: {off:.1e}");
                }
            }
        }
    }
}

#[test]
fn windows_and_accumulation() {
    let (m, n, k) = (14, 20, 9);
    let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
    let operands = (Operand::by_row(Elements::F32(&a), m, k), Operand::by_row(Elements::F32(&b), n, k));
    let plain = gemm(&operands.0, &operands.1, Precision::F32);
    let mut twice = plain.clone();
    gemm_add(&mut twice, &operands.0, &operands.1, Precision::F32);
    assert!(twice.iter().zip(&plain).all(|(t, p)| *t == 2.0 * p));
    let mut wide = vec![7.0; m * 30];
    gemm_serial(&mut wide[3..], 30, &operands.0, &operands.1, false);
    for (i, x) in wide.iter().enumerate() {
        let (row, column) = (i / 30, i % 30);
        let inside = (3..23).contains(&column);
        assert_eq!(*x, if inside { plain[row * n + column - 3] } else { 7.0 });
    }
}

#[test]
fn an_empty_sum_is_zero() {
    let nothing = Operand::by_row(Elements::F32(&[]), 2, 0);
    assert_eq!(gemm(&nothing, &nothing, Precision::F32), [0.0; 4]);
}

/// Returns rows of `k` numbers in blocks of this kind: random bits with scales of a sensible size.
fn quantised(kind: BlockKind, rows: usize, k: usize, seed: u32) -> Vec<u8> {
    let (count, size) = kind.block();
    let mut bytes: Vec<u8> =
        numbers(rows * k / count * size, seed).iter().map(|x| (x * 1e6) as i64 as u8).collect();
    for block in bytes.chunks_exact_mut(size) {
        if kind == BlockKind::Nf4 {
            let magnitude = f32::from(block[0]) / 256.0;
            block[..4].copy_from_slice(&magnitude.to_le_bytes());
        }
        // Offsets of the f16 scales.
        let scales: &[usize] = match kind {
            BlockKind::Nf4 => &[],
            BlockKind::Q6K => &[208],
            BlockKind::Q4_0 | BlockKind::Q5_0 | BlockKind::Q8_0 => &[0],
            _ => &[0, 2],
        };
        for at in scales {
            let scale = f16::from_f32(f32::from(block[*at]) / 256.0 / 64.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Returns Gaussian numbers, by the Box–Muller transform of the sequence.
fn gaussian(count: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed);
    let mut uniform = || {
        // splitmix64 (Steele, Lea & Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut number =
        || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
    (0..count).map(|_| number() as f32).collect()
}

/// ‖got − want‖ / ‖want‖.
fn distance(got: &[f32], want: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - w)) / norm(&mut want.iter().copied())
}

/// One row and a few take their own paths where their weights are whole groups of tiles, one row also where they are
/// quantised, and a few where the columns lie side by side.
#[test]
fn a_few_rows_have_the_bits_they_have_among_others() {
    let pools: Vec<_> =
        [1, 3].iter().map(|&t| rayon::ThreadPoolBuilder::new().num_threads(t).build().unwrap()).collect();
    // Several tasks and several blocks of `k`; the last chunk of fixed point is half a chunk.
    let (n, k) = (608, 2592);
    let (x, onto) = (gaussian(90 * k, 1), gaussian(90 * n, 2));
    let weight: Vec<bf16> = gaussian(n * k, 3).into_iter().map(bf16::from_f32).collect();
    let wide = gaussian(n * k, 4);
    let kinds = [BlockKind::Q4_1, BlockKind::Q5_0, BlockKind::Q8_0];
    let bytes = kinds.map(|kind| quantised(kind, n, k, 3));
    let blocks = kinds.iter().zip(&bytes).map(|(kind, bytes)| Elements::Blocks(Blocks::new(*kind, bytes)));
    let quantised: Vec<_> = blocks.map(|blocks| (blocks, Precision::Fixed)).collect();
    let plain = [(Elements::Bf16(&weight), Precision::Bf16), (Elements::F32(&wide), Precision::F32)];
    let by_row = plain.into_iter().chain(quantised);
    // These are read in place, but for the last columns, which fill no tile.
    let in_place = Operand::by_column(Elements::F32(&wide), k, n - 5);
    let operands: Vec<_> = by_row
        .map(|(weight, precision)| (Operand::by_row(weight, n, k), precision))
        .chain([(in_place, Precision::F32)])
        .collect();
    for isa in Isa::available() {
        for &(b, precision) in &operands {
            let n = b.lanes;
            // Added to numbers, and written.
            let sums = |first: usize, rows: usize| {
                let a = Operand::by_row(Elements::F32(&x[first * k..(first + rows) * k]), rows, k);
                let a = Packed::with(isa, &a, precision, true);
                let mut out = onto[first * n..(first + rows) * n].to_vec();
                add_products(&mut out, &[Segment { a: &a, b }]);
                [out, sum_of_products(&[Segment { a: &a, b }])]
            };
            let whole = sums(0, 90);
            let parts = [(7, 1), (0, 2), (80, 10), (5, 15), (30, 16), (3, 17), (40, 32), (9, 33), (20, 64)];
            for (pool, (first, rows)) in pools.iter().flat_map(|pool| parts.map(|part| (pool, part))) {
                let some = pool.install(|| sums(first, rows));
                for (some, whole) in some.iter().zip(&whole) {
                    let same = some.iter().zip(&whole[first * n..]).all(|(x, y)| x.to_bits() == y.to_bits());
                    assert!(same, "{isa:?} {precision:?} {rows} rows");
                }
            }
        }
    }
}

/// Large enough for several groups of stages, and for threads to share the rows of a task.
#[test]
#[cfg_attr(miri, ignore = "takes too many steps")]
fn shared_rows_add_to_what_is_there() {
    let pools: Vec<_> =
        [1, 3].iter().map(|&t| rayon::ThreadPoolBuilder::new().num_threads(t).build().unwrap()).collect();
    let (m, n, k) = (100, 200, 3000);
    let (a, b, onto) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
    let half: Vec<bf16> = b.iter().copied().map(bf16::from_f32).collect();
    for isa in Isa::available() {
        for (weight, precision) in [
            (Elements::F32(&b), Precision::F32),
            (Elements::Bf16(&half), Precision::Bf16),
            (Elements::F32(&b), Precision::Fixed),
        ] {
            for b in [Operand::by_row(weight, n, k), Operand::by_column(weight, k, n)] {
                let sums = || {
                    let a = Packed::with(isa, &Operand::by_row(Elements::F32(&a), m, k), precision, true);
                    let mut out = onto.clone();
                    add_products(&mut out, &[Segment { a: &a, b }, Segment { a: &a, b }]);
                    out
                };
                let [one, three] = [0, 1].map(|pool| pools[pool].install(sums));
                let same = one.iter().zip(&three).all(|(x, y)| x.to_bits() == y.to_bits());
                assert!(same, "{isa:?} {precision:?}");
            }
        }
    }
}
