//! Elementwise arithmetic that the compiler vectorises for the processor it runs on.

/// Compiles a function for the baseline, AVX2 + FMA and AVX-512, and calls the best version for this processor. The
/// body is generic over `const FMA: bool`, which says whether `mul_add` is one instruction.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                use $crate::ops::gemm::Isa;
                let isa = Isa::detected();
                if isa >= Isa::Avx512 {
                    // SAFETY: this set and later ones are available only where `Isa::present` found avx512f, avx512bw,
                    // avx512vl and fma.
                    return unsafe { avx512($($arg),*) };
                }
                if isa >= Isa::Avx2 {
                    // SAFETY: this set is available only where `Isa::present` found avx2 and fma.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Returns `a·b + c`, fused where `FMA`.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Returns eˣ to about 1 ulp, for loops that vectorise. The result is zero below −87.3 and at most e^88.3; NaN stays
/// NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    // x = n·ln 2 + r, |r| ≤ ln 2 / 2; the constants are those of Cephes' expf.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let t = fma::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = t - ROUND;
    let r = fma::<FMA>(n, 2.121_944_4e-4, fma::<FMA>(n, -0.693_359_4, clamped));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let p = fma::<FMA>(p, r * r, r) + 1.0;
    let scale = f32::from_bits((t.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { p * scale }
}

/// Lanes of the fixed-order sums: there are sixteen running sums, added pairwise at the end.
pub(super) const LANES: usize = 16;

/// Adds sixteen running sums pairwise.
#[inline(always)]
pub(super) fn tree(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Returns Σ f(i) over `0..n` in a fixed order that vectorises.
#[inline(always)]
pub fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let whole = n - n % LANES;
    for i in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(i + lane);
        }
    }
    for i in whole..n {
        sums[i - whole] += f(i);
    }
    tree(sums)
}

vectorised! {
    /// Returns Σ x·y, in a fixed order.
    pub fn dot(x: &[f32], y: &[f32]) -> f32 {
        let _ = FMA;
        let n = x.len().min(y.len());
        let (x, y) = (&x[..n], &y[..n]);
        sum(n, |i| x[i] * y[i])
    }
}

vectorised! {
    /// Returns the greatest number, or NaN if there is one; −∞ of nothing.
    pub fn maximum(x: &[f32]) -> f32 {
        let _ = FMA;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                // `f32::max` would drop a NaN.
                *lane = if *x > *lane || x.is_nan() { *x } else { *lane };
            }
        }
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m || x.is_nan() { *x } else { m })
    }
}

vectorised! {
    /// Returns the bits of the greatest magnitude, which order as the magnitudes do, with NaN above all.
    fn magnitude(x: &[f32]) -> u32 {
        let _ = FMA;
        x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff))
    }
}

/// Whether no number is infinite or NaN.
pub fn are_finite(x: &[f32]) -> bool {
    magnitude(x) < f32::INFINITY.to_bits()
}

/// Whether one of them is NaN.
pub fn has_nan(x: &[f32]) -> bool {
    magnitude(x) > f32::INFINITY.to_bits()
}

vectorised! {
    /// Returns the index of the first number that equals `wanted`.
    pub fn position(x: &[f32], wanted: f32) -> Option<usize> {
        let _ = FMA;
        let at = x.chunks(8 * LANES).position(|part| part.iter().fold(false, |found, x| found | (*x == wanted)))?;
        let first = at * 8 * LANES;
        x[first..].iter().position(|x| *x == wanted).map(|at| first + at)
    }
}

vectorised! {
    /// Computes `y += factor·x`.
    pub fn add_scaled(y: &mut [f32], x: &[f32], factor: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(factor, *x, *y);
        }
    }
}

vectorised! {
    /// Computes `out = factor·x`.
    pub fn scale_into(out: &mut [f32], x: &[f32], factor: f32) {
        let _ = FMA;
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor * *x;
        }
    }
}

vectorised! {
    /// Computes `out = x + factor·y`.
    pub fn scaled_sum(x: &[f32], y: &[f32], factor: f32, out: &mut [f32]) {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = fma::<FMA>(factor, *y, *x);
        }
    }
}

vectorised! {
    /// Replaces `x` by `exp(x − max)` and returns (max, Σ): a softmax without its division. `x` must not be empty.
    pub fn exp_shifted(x: &mut [f32]) -> (f32, f32) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                // `f32::max` would drop a NaN.
                *lane = if *x > *lane || x.is_nan() { *x } else { *lane };
            }
        }
        let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m || x.is_nan() { *x } else { m });
        // If everything is masked, any finite shift gives a row of zeros.
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sums = [0.0; LANES];
        for chunk in x.chunks_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = exp::<FMA>(*x - shift);
                *sum += *x;
            }
        }
        (max, tree(sums))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    vectorised! {
        fn exps(x: &mut [f32]) {
            for x in x.iter_mut() {
                *x = exp::<FMA>(*x);
            }
        }
    }

    #[test]
    fn exp_is_within_two_ulp_everywhere() {
        let inputs: Vec<f32> = (-8700..=8800).map(|i| i as f32 / 100.0).collect();
        let mut outputs = inputs.clone();
        exps(&mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let want = f64::from(*x).exp();
            assert!((f64::from(*y) / want - 1.0).abs() < 2.5e-7, "exp({x}) = {y}, not {want}");
        }
        let mut special = [f32::NEG_INFINITY, -100.0, 0.0, f32::NAN, 100.0];
        exps(&mut special);
        assert_eq!(special[..3], [0.0, 0.0, 1.0]);
        assert!(special[3].is_nan() && special[4] > 1e38);
    }

    #[test]
    fn what_is_no_number_is_found_anywhere() {
        for n in [1, 15, 16, 40, 300] {
            for at in [0, n / 2, n - 1] {
                let mut x: Vec<f32> = (0..n).map(|i| -((i % 50) as f32)).collect();
                assert!(are_finite(&x) && !has_nan(&x));
                x[at] = f32::NEG_INFINITY;
                assert!(!are_finite(&x) && !has_nan(&x));
                x[at] = f32::NAN;
                assert!(!are_finite(&x) && has_nan(&x) && maximum(&x).is_nan());
            }
        }
        assert!(are_finite(&[]) && !has_nan(&[]));
    }

    #[test]
    fn the_first_of_equals_is_found() {
        for n in [1, 16, 127, 128, 129, 700] {
            for at in [0, n / 3, n - 1] {
                let mut x = vec![-1.0; n];
                x[at] = 3.0;
                x[n - 1] = 3.0;
                assert_eq!((maximum(&x), position(&x, 3.0), position(&x, 4.0)), (3.0, Some(at), None));
            }
        }
        assert_eq!(position(&[-0.0, 0.0], 0.0), Some(0));
    }

    #[test]
    fn sums_keep_every_term() {
        for n in 0..70 {
            assert_eq!(sum(n, |i| i as f32), (n * n.saturating_sub(1) / 2) as f32);
        }
    }

    #[test]
    fn exp_shifted_is_a_softmax_and_keeps_nan() {
        let mut x: Vec<f32> = (0..37).map(|i| (i % 7) as f32 - 50.0).collect();
        x[5] = f32::NEG_INFINITY;
        let (max, total) = exp_shifted(&mut x);
        assert_eq!(max, -44.0);
        assert_eq!(x[5], 0.0);
        assert!((x.iter().sum::<f32>() - total).abs() < 1e-5);
        let mut broken = [0.0, f32::NAN, 1.0];
        assert!(exp_shifted(&mut broken).1.is_nan());
    }
}
