//! Products in fixed point.

use super::*;

/// Every storage and layout gives the same fixed point as its f32 numbers packed from rows.
#[test]
fn fixed_point_of_every_layout() {
    for isa in Isa::available() {
        for &(m, n, k) in SIZES {
            let a = numbers(m * k, 1);
            let halves: Vec<bf16> = numbers(n * k * 3, 7).into_iter().map(bf16::from_f32).collect();
            let f16s: Vec<f16> = halves.iter().map(|x| f16::from_f32(x.to_f32())).collect();
            let a = Operand::by_row(Elements::F32(&a), m, k);
            for (lane_stride, k_stride) in [(k, 1), (1, n), (3 * k, 3), (3, 3 * n)] {
                for elements in [Elements::Bf16(&halves), Elements::F16(&f16s)] {
                    let b = Operand::strided(elements, n, k, lane_stride, k_stride);
                    let wide: Vec<f32> =
                        (0..n * k).map(|i| elements.get(i / k * lane_stride + i % k * k_stride)).collect();
                    let rows =
                        product(isa, &a, &Operand::by_row(Elements::F32(&wide), n, k), Precision::Fixed);
                    assert_eq!(product(isa, &a, &b, Precision::Fixed), rows, "{isa:?} {m} {n} {k}");
                    let turned: Vec<f32> = (0..n * k).map(|i| wide[i % n * k + i / n]).collect();
                    let b = Operand::by_column(Elements::F32(&turned), k, n);
                    assert_eq!(product(isa, &a, &b, Precision::Fixed), rows, "{isa:?} {m} {n} {k} turned");
                }
            }
        }
    }
}

/// Every set with integers has the bits of the definition: rounded integers, exact sums over 64 of them, and one fused
/// multiply-add per chunk with both scales.
#[test]
fn fixed_point_has_the_bits_of_its_definition() {
    for isa in Isa::available().filter(|isa| isa.has_fixed()) {
        for (m, n, k) in [(1, 40, 64), (5, 7, 130), (25, 30, 500), (16, 24, 448)] {
            let (a, b) = (gaussian(m * k, 3), gaussian(n * k, 4));
            let chunk = |x: &[f32]| {
                let greatest = x.iter().fold(0f32, |greatest, x| greatest.max(x.abs()));
                let integer = |x: &f32| (x * (5792.0 / greatest)).round_ties_even() as i64;
                (x.iter().map(integer).collect::<Vec<_>>(), greatest * (1.0 / 5792.0))
            };
            let want: Vec<f32> = (0..m * n)
                .map(|i| {
                    let pairs = a[i / n * k..][..k].chunks(64).zip(b[i % n * k..][..k].chunks(64));
                    pairs.fold(0.0, |sum: f32, (a, b)| {
                        let ((a, of_a), (b, of_b)) = (chunk(a), chunk(b));
                        let total: i64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
                        (total as f32 * of_b).mul_add(of_a, sum)
                    })
                })
                .collect();
            let (a, b) = (Operand::by_row(Elements::F32(&a), m, k), Operand::by_row(Elements::F32(&b), n, k));
            assert_eq!(product(isa, &a, &b, Precision::Fixed), want, "{isa:?} {m} {n} {k}");
        }
    }
}

#[test]
fn fixed_point_keeps_what_is_no_number() {
    let (m, n, k) = (15, 37, 200);
    let b = gaussian(n * k, 4);
    let b = Operand::by_row(Elements::F32(&b), n, k);
    for isa in Isa::available() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut a = gaussian(m * k, 3);
            let plain = product(isa, &Operand::by_row(Elements::F32(&a), m, k), &b, Precision::Fixed);
            a[4 * k + 133] = odd;
            let got = product(isa, &Operand::by_row(Elements::F32(&a), m, k), &b, Precision::Fixed);
            for (row, (got, plain)) in got.chunks(n).zip(plain.chunks(n)).enumerate() {
                assert!(if row == 4 { got.iter().all(|x| !x.is_finite()) } else { got == plain }, "{isa:?}");
            }
        }
        // Zeros, numbers that are almost zero, and the smallest and the greatest that are kept.
        for (factor, most) in [(0.0, 0.0), (1e-36, 1e-34), (1e-28, 1e-26), (1e35, f32::MAX)] {
            let a: Vec<f32> = gaussian(m * k, 3).iter().map(|x| x * factor).collect();
            let got = product(isa, &Operand::by_row(Elements::F32(&a), m, k), &b, Precision::Fixed);
            assert!(got.iter().all(|x| x.abs() <= most), "{isa:?} {factor}");
            assert_eq!(got.iter().any(|x| *x != 0.0), factor > 1e-30 || !isa.has_fixed() && factor > 0.0);
        }
    }
}
