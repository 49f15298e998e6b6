//! A weight split into magnitude and direction (DoRA, Liu et al. 2024, arXiv 2402.09353, eq. 5), beside the frozen map:
//! `W' = diag(g)·(W + s·B·A)` with `g = m / ‖W + s·B·A‖`, a norm for each output.
//!
//! A path adds `w·((g − 1)∘(x̃·Wᵀ) + g∘(s·x̃·Aᵀ·Bᵀ))` to the output, where x̃ is the input after dropout and w the weight of
//! the path (1, unless adapters are combined). The norm counts as a constant in the backward pass (section 4.3), as in PEFT.
//! With `v = x̃·(W + s·B·A)ᵀ [T, out]` kept from the forward pass: `dm = w·Σ_t dy∘v / ‖W + s·B·A‖`, `dz = w·s·(g∘dy)·B`,
//! `dA = dzᵀ·x̃`, `dB = w·s·(g∘dy)ᵀ·z`, `dx̃ = w·((g − 1)∘dy)·W + dz·A`.

use std::borrow::Cow;

use rayon::prelude::*;

use super::backward::{Backward, PathBack};
use super::{Forward, LowRank, LowRankGradients, add, pack, riding, scaled};
use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::gemm::{Operand, Packed, Segment, add_products, sum_of_products};
use crate::ops::{host, profile, simd};
use crate::weights::Elements;

/// The factors of a decomposed path.
#[derive(Clone, Copy, Debug)]
pub struct Gain<'a> {
    /// `g [out]`.
    pub factors: &'a [f32],
    /// The weight w of the whole path.
    pub weight: f32,
}

impl Gain<'_> {
    /// `w·g [out]`.
    fn of_path(&self) -> impl Iterator<Item = f32> {
        self.factors.iter().map(|g| self.weight * g)
    }

    /// `w·(g − 1) [out]`.
    fn of_weight(&self) -> impl Iterator<Item = f32> {
        self.factors.iter().map(|g| self.weight * (g - 1.0))
    }
}

/// Returns the norms of the rows of `W + s·B·A`, `[out]`, summed in f64.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn norms(linear: &Linear, path: LowRank) -> Result<Vec<f32>> {
    path.check(linear)?;
    let flop = 2 * linear.inputs() * linear.outputs() * (path.rank + 1);
    Ok(profile::timed("weight norms", flop, || {
        let row = |row: &mut Vec<f32>, output: usize| {
            row.resize(linear.inputs(), 0.0);
            sum_of_row(linear, path, output, row);
            squares(row).sqrt() as f32
        };
        (0..linear.outputs()).into_par_iter().map_init(Vec::new, row).collect()
    }))
}

/// Writes row `output` of `W + s·B·A` into `row [in]`.
pub fn sum_of_row(linear: &Linear, path: LowRank, output: usize, row: &mut [f32]) {
    linear.output_row(output, row);
    let b = &path.b[output * path.rank..(output + 1) * path.rank];
    for (a, b) in path.a.chunks_exact(linear.inputs().max(1)).zip(b) {
        simd::add_scaled(row, a, path.scale * b);
    }
}

/// Σ x² in eight sums, so that one addition does not wait for the one before.
fn squares(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for part in row.chunks(sums.len()) {
        part.iter().zip(&mut sums).for_each(|(x, sum)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums.iter().sum()
}

impl Forward<'_> {
    /// Adds a decomposed path over `x` or, under dropout, over the `masked` input. Returns `z [T, r]` and `v [T, out]`,
    /// which the backward pass needs.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn decomposed(
        &mut self,
        path: LowRank,
        gain: Gain,
        masked: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (linear, rows, columns) = (self.linear, self.input().shape().0, self.linear.outputs());
        let z = self.inner(path, masked)?;
        let alone = |packed: &Packed| sum_of_products(&[Segment { a: packed, b: linear.operand(true) }]);
        let masked = masked
            .map(|masked| {
                let packed = pack(masked, linear.precision())?;
                Ok::<_, crate::error::Error>(profile::timed("linear forward", linear.flop(rows), || {
                    alone(&packed)
                }))
            })
            .transpose()?;
        let u = match &masked {
            Some(u) => u,
            None => {
                if self.plain.is_none() {
                    self.plain = Some(alone(self.input.packed(linear.precision())?));
                }
                self.plain.as_deref().unwrap_or_default()
            }
        };
        let mut v = host::copy(u);
        let up = scaled(&z, path.scale, path.rank, riding(linear));
        add_products(
            &mut v,
            &[Segment { a: &up, b: Operand::by_row(Elements::F32(path.b), columns, path.rank) }],
        );
        let (factors, weight): (Vec<f32>, f32) = (gain.of_path().collect(), gain.weight);
        let part = host::build_rows(rows, columns, |row, out| {
            let range = row * columns..(row + 1) * columns;
            let sums = factors.iter().zip(&v[range.clone()]).zip(&u[range]);
            out.iter_mut().zip(sums).for_each(|(out, ((g, v), u))| *out = g * v - weight * u);
        });
        match &mut self.added {
            Some(added) => add(added, &part, columns),
            none => *none = Some(part),
        }
        Ok((Tensor::new(z, (rows, path.rank))?, Tensor::new(v, (rows, columns))?))
    }
}

impl<'a> Backward<'a> {
    /// Adds a decomposed path's part of `dx`, with the dropout factors `mask [T, in]` if there were any. Returns
    /// `dz [T, r]`.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn decomposed(
        &mut self,
        path: LowRank<'a>,
        gain: Gain,
        mask: Option<&'a Tensor>,
    ) -> Result<Vec<f32>> {
        let LowRank { a, rank, .. } = path;
        let mut b = path.b.to_vec();
        for (row, g) in b.chunks_exact_mut(rank.max(1)).zip(gain.of_path()) {
            row.iter_mut().for_each(|b| *b *= g);
        }
        let dz = self.through_b(LowRank { b: &b, ..path })?;
        self.paths.push(PathBack {
            dz: scaled(&dz, 1.0, rank, riding(self.linear)),
            a: Cow::Borrowed(a),
            rank,
            mask,
        });
        match mask {
            Some(mask) => {
                let dy = self.times(&gain.of_weight().collect::<Vec<_>>())?;
                self.masked.push((dy, mask));
            }
            None => {
                let sum = self.gain.get_or_insert_with(|| vec![1.0; gain.factors.len()]);
                sum.iter_mut().zip(gain.of_weight()).for_each(|(sum, g)| *sum += g);
            }
        }
        Ok(dz)
    }

    /// Returns `dA`, `dB` and `Σ_t w·dy∘v [out]`, which is `dm` times the norms. The arguments are those of
    /// [`Backward::gradients`], and `v [T, out]` of [`Forward::decomposed`].
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn decomposed_gradients(
        &self,
        path: LowRank,
        gain: Gain,
        (x, z, v): (&Tensor, &Tensor, &Tensor),
        dz: &[f32],
    ) -> Result<(LowRankGradients, Vec<f32>)> {
        let mut gradients = self.gradients(path, (x, z), dz)?;
        for (row, g) in gradients.b.chunks_exact_mut(path.rank.max(1)).zip(gain.of_path()) {
            row.iter_mut().for_each(|b| *b *= g);
        }
        let (columns, v, dy) = (gain.factors.len(), v.numbers(), self.dy.numbers());
        // One pass over the rows for each part of the columns, so that the order of the sum is always the same.
        const PART: usize = 64;
        let mut sums = vec![0.0; columns];
        sums.par_chunks_mut(PART).enumerate().for_each(|(part, sums)| {
            let first = part * PART;
            for (dy, v) in dy.chunks_exact(columns.max(1)).zip(v.chunks_exact(columns.max(1))) {
                let products = dy[first..first + sums.len()].iter().zip(&v[first..first + sums.len()]);
                sums.iter_mut().zip(products).for_each(|(sum, (dy, v))| *sum += gain.weight * dy * v);
            }
        });
        Ok((gradients, sums))
    }
}
