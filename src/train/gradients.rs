//! The norm of the flat gradient, and gradient clipping.

use rayon::prelude::*;

use crate::ops::host;

/// Elements summed by one task. The size is fixed and partial sums are added in order, so the norm's bits do not depend
/// on the number of threads.
const CHUNK: usize = 1 << 14;

/// Returns the Euclidean norm over all gradients, summed in f64. It is not finite if any gradient is not.
pub fn global_norm(gradients: &[f32]) -> f64 {
    let partial: Vec<f64> = gradients
        .par_chunks(CHUNK)
        .map(|chunk| {
            // Eight parallel sums, so that the loop vectorises.
            let mut lanes = [0f64; 8];
            let (blocks, rest) = chunk.as_chunks::<8>();
            for block in blocks {
                for (lane, &g) in lanes.iter_mut().zip(block) {
                    *lane += f64::from(g) * f64::from(g);
                }
            }
            let rest: f64 = rest.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            lanes.iter().sum::<f64>() + rest
        })
        .collect();
    partial.iter().sum::<f64>().sqrt()
}

/// Returns the factor that [`clip`] multiplies by: max_norm / (norm + 1e-6) if that is below 1, else 1.
pub fn factor(norm: f64, max_norm: f64) -> f32 {
    let scale = max_norm / (norm + 1e-6);
    if norm.is_finite() && scale < 1.0 { scale as f32 } else { 1.0 }
}

/// Scales `gradients` of norm `norm` down to `max_norm`, as `torch.nn.utils.clip_grad_norm_` does: by max_norm / (norm
/// + 1e-6) if that is below 1. If the norm is not finite, the gradients are left unchanged.
pub fn clip(gradients: &mut [f32], norm: f64, max_norm: f64) {
    let scale = factor(norm, max_norm);
    if scale < 1.0 {
        host::scale(gradients, scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_of_a_known_vector() {
        assert_eq!(global_norm(&[3.0, -4.0]), 5.0);
        assert_eq!(global_norm(&[]), 0.0);
        // 100,003 twos (no multiple of the chunk or of eight): 2·√n
        let twos = vec![2f32; 100_003];
        assert!((global_norm(&twos) - 2.0 * 100_003f64.sqrt()).abs() < 1e-9);
        // f32 squares would overflow
        assert!((global_norm(&[3e30, 4e30]) / 5e30 - 1.0).abs() < 1e-6);
        assert!(global_norm(&[1.0, f32::NAN]).is_nan());
    }

    #[test]
    fn norm_is_the_same_bits_on_any_number_of_threads() {
        let gradients: Vec<f32> = (0..70_001).map(|i| ((i * 7919) % 1013) as f32 / 97.0 - 5.0).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| global_norm(&gradients)).to_bits()
        };
        assert_eq!(on(1), on(2));
        assert_eq!(on(1), on(5));
    }

    #[test]
    fn clipping_only_ever_shrinks() {
        let mut large = [3.0f32, 4.0];
        clip(&mut large, 5.0, 1.0);
        let scale = 1.0 / (5.0 + 1e-6);
        assert!((f64::from(large[0]) - 3.0 * scale).abs() < 1e-7);
        let mut small = [0.3f32, 0.4];
        clip(&mut small, 0.5, 1.0);
        assert_eq!(small, [0.3, 0.4]);
        let mut broken = [f32::INFINITY, 1.0];
        clip(&mut broken, f64::INFINITY, 1.0);
        assert_eq!(broken, [f32::INFINITY, 1.0]);
    }
}
