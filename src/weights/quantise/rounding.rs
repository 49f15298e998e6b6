//! Rounding and extremes as in ggml's quantisers.

/// The largest number below 0.5. With 0.5 itself, the number before 0.5 would be rounded up.
const BELOW_HALF: f32 = 0.5f32.next_down();

/// Returns the nearest integer, with halves rounded away from zero. It equals `x.round() as i32`, which calls the C
/// library on x86-64: the result saturates, and is 0 for NaN.
#[inline(always)]
pub fn nearest(x: f32) -> i32 {
    (x + BELOW_HALF.copysign(x)) as i32
}

/// Returns the nearest of the integers `0..=levels`, and 0 for NaN. It is meant for loops that vectorise; `levels` must
/// be below 2²².
#[inline(always)]
pub fn nearest_level(x: f32, levels: f32) -> f32 {
    // 2²³, from which on f32 has no fractions: the sum is rounded to an integer, with halves to even.
    const INTEGERS: f32 = 8_388_608.0;
    let positive = if x > 0.0 { x } else { 0.0 };
    let limited = if positive < levels { positive } else { levels };
    let raised = limited + BELOW_HALF;
    let rounded = (raised + INTEGERS) - INTEGERS;
    if rounded > raised { rounded - 1.0 } else { rounded }
}

/// Returns `1 / scale`, or 0 for a scale of 0.
#[inline(always)]
pub fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Returns the number of largest magnitude with its sign (the first of several), or 0 if there is none. NaN is skipped.
#[inline(always)]
pub fn extreme(numbers: &[f32]) -> f32 {
    let (mut magnitude, mut extreme) = (0.0, 0.0);
    for x in numbers {
        if x.abs() > magnitude {
            (magnitude, extreme) = (x.abs(), *x);
        }
    }
    extreme
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Halves and their neighbours, and numbers of every sign and exponent.
    fn numbers() -> impl Iterator<Item = f32> {
        let halves = (-70_000..70_000).flat_map(|i| {
            let half = i as f32 * 0.5;
            [half.next_down(), half, half.next_up()]
        });
        halves.chain((0..=u32::MAX).step_by(104_729).map(f32::from_bits)).chain([f32::NAN, f32::INFINITY])
    }

    #[test]
    fn integers_are_those_of_round() {
        for x in numbers() {
            assert_eq!(nearest(x), x.round() as i32, "{x:e}");
            for levels in [15, 31] {
                let want = (x.round() as i32).clamp(0, levels);
                assert_eq!(nearest_level(x, levels as f32), want as f32, "{x:e} of {levels}");
            }
        }
    }

    #[test]
    fn the_first_of_equal_magnitudes_is_the_extreme() {
        assert_eq!(extreme(&[1.0, -3.0, 3.0, f32::NAN]), -3.0);
        assert_eq!(extreme(&[]), 0.0);
        assert_eq!((inverse(-0.0), inverse(-4.0)), (0.0, -0.25));
    }
}
