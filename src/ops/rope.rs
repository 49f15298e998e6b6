//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34): pairs of features are rotated by an angle that
//! grows with the position. The backward pass rotates back.

use super::Tensor;
use super::host;
use super::simd::vectorised;
use crate::error::Result;

/// Which features form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Feature i is paired with i + half (Llama, NeoX).
    Halves,
    /// Feature 2i is paired with 2i + 1 (GPT-J).
    Interleaved,
}

/// The angles of a batch, as cosine and sine `[T, half]`.
#[derive(Clone, Debug)]
pub struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    pairing: Pairing,
}

impl Rotation {
    /// Computes the angles `position · frequency` in f32, as transformers does. The cosine and sine are multiplied by
    /// `scale`.
    pub fn new(positions: &[u32], frequencies: &[f32], scale: f32, pairing: Pairing) -> Self {
        let rows = positions.iter().map(|position| (*position, frequencies, scale));
        Self::by_row(rows, frequencies.len(), pairing)
    }

    /// Like [`Self::new`], but each row has its own position, `half` frequencies and scale.
    pub fn by_row<'a>(
        rows: impl Iterator<Item = (u32, &'a [f32], f32)>,
        half: usize,
        pairing: Pairing,
    ) -> Self {
        let rows: Vec<_> = rows.collect();
        let (cos, sin) = host::build_two(rows.len(), half, |row, cos, sin| {
            let (position, frequencies, scale) = rows[row];
            for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(frequencies) {
                let angle = f64::from(position as f32 * f);
                (*cos, *sin) = (angle.cos() as f32 * scale, angle.sin() as f32 * scale);
            }
        });
        Self { cos, sin, half, pairing }
    }

    /// Returns the cosines and sines, `[T, half]` each.
    pub fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }
}

/// Returns `x [T, heads·head_dim]`, rotated.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn forward(x: &Tensor, rotation: &Rotation, head_dim: usize) -> Result<Tensor> {
    turn(x, rotation, head_dim, 1.0)
}

/// Returns the gradient of `x` from that of the rotated `x`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(dy: &Tensor, rotation: &Rotation, head_dim: usize) -> Result<Tensor> {
    turn(dy, rotation, head_dim, -1.0)
}

fn turn(x: &Tensor, rotation: &Rotation, head_dim: usize, direction: f32) -> Result<Tensor> {
    let (rows, width) = x.shape();
    let from = x.numbers();
    let half = rotation.half;
    let out = host::build_rows(rows, width, |row, out| {
        let (cos, sin) = (&rotation.cos[row * half..][..half], &rotation.sin[row * half..][..half]);
        turn_row(&from[row * width..(row + 1) * width], cos, sin, direction, head_dim, rotation.pairing, out);
    });
    Tensor::new(out, (rows, width))
}

vectorised! {
    /// Rotates all heads of a row.
    fn turn_row(x: &[f32], cos: &[f32], sin: &[f32], direction: f32, head_dim: usize, pairing: Pairing, out: &mut [f32]) {
        let _ = FMA;
        let half = cos.len();
        for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            out[2 * half..].copy_from_slice(&x[2 * half..]);
            if pairing == Pairing::Halves {
                let (first, second) = x[..2 * half].split_at(half);
                let (to_first, to_second) = out[..2 * half].split_at_mut(half);
                for i in 0..half {
                    let (a, b, c, s) = (first[i], second[i], cos[i], sin[i] * direction);
                    to_first[i] = a * c - b * s;
                    to_second[i] = b * c + a * s;
                }
            } else {
                for (((x, out), c), s) in x.chunks_exact(2).zip(out.chunks_exact_mut(2)).zip(cos).zip(sin) {
                    let s = s * direction;
                    out[0] = x[0] * c - x[1] * s;
                    out[1] = x[1] * c + x[0] * s;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{self, Plain};
    use crate::ops::testing::{assert_finite_differences, assert_same, noise};

    /// Returns the indices of the two features of pair `i`.
    fn pair(rotation: &Rotation, i: usize) -> (usize, usize) {
        match rotation.pairing {
            Pairing::Halves => (i, i + rotation.half),
            Pairing::Interleaved => (2 * i, 2 * i + 1),
        }
    }

    /// The plain form: rotates the first `2·half` features of each head of `x [T, heads·head_dim]`.
    fn reference(x: &Plain, rotation: &Rotation, head_dim: usize) -> Result<Plain> {
        let (rows, width) = x.dims2()?;
        let (half, heads) = (rotation.half, width / head_dim);
        let angle = |data: &[f32]| Plain::from_slice(data, (rows, 1, half), x.device());
        let (cos, sin) = (angle(&rotation.cos)?, angle(&rotation.sin)?);
        let by_head = x.reshape((rows, heads, head_dim))?; // [T, heads, head_dim]
        let indices = |second: bool| {
            let pick =
                (0..half).map(|i| if second { pair(rotation, i).1 } else { pair(rotation, i).0 } as u32);
            Plain::from_iter(pick, x.device())
        };
        let (a, b) = (by_head.index_select(&indices(false)?, 2)?, by_head.index_select(&indices(true)?, 2)?);
        let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let turned_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let turned = match rotation.pairing {
            Pairing::Halves => Plain::cat(&[turned_a, turned_b], 2)?,
            Pairing::Interleaved => {
                Plain::stack(&[turned_a, turned_b], 3)?.reshape((rows, heads, 2 * half))?
            }
        };
        let rest = by_head.narrow(2, 2 * half, head_dim - 2 * half)?;
        Ok(Plain::cat(&[turned, rest], 2)?.reshape((rows, width))?)
    }

    #[test]
    fn forward_and_backward_match_the_plain_form() {
        let (x, dy) = (noise(&[5, 30], 1), noise(&[5, 30], 2));
        for (pairing, half) in [(Pairing::Halves, 5), (Pairing::Halves, 3), (Pairing::Interleaved, 4)] {
            let frequencies: Vec<f32> = (0..half).map(|i| 0.7f32.powi(i)).collect();
            let rotation = Rotation::new(&[0, 1, 2, 2, 9], &frequencies, 1.25, pairing);
            let y = forward(&x, &rotation, 10).unwrap();
            let plain = |v: &[Plain]| reference(&v[0], &rotation, 10);
            assert_same(&y, &oracle::value(&[&x], plain), 1e-6, "forward");
            let dx = backward(&dy, &rotation, 10).unwrap();
            let want = oracle::gradients(&[&x], &dy, plain).unwrap();
            assert_same(&dx, &want[0], 1e-6, "backward");
            assert_finite_differences(&x, &dy, &dx, |x| forward(x, &rotation, 10));
        }
    }
}
