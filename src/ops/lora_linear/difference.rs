//! The difference of a low-rank path from its start: `y += s·x·(B·A − B₀·A₀)ᵀ`, with A₀ and B₀ constant.
//!
//! It is computed as `B·A − B₀·A₀ = (B − B₀)·A + B₀·(A − A₀)`, so that it is exactly 0 at the start. With `dz = s·dy·B`, the
//! gradients of A and B are those of a plain path.

use std::borrow::Cow;

use super::backward::{Backward, PathBack};
use super::{Forward, LowRank, riding, scaled};
use crate::error::Result;
use crate::ops::Tensor;

/// `now − start`.
fn change(now: &[f32], start: &[f32]) -> Vec<f32> {
    now.iter().zip(start).map(|(now, start)| now - start).collect()
}

impl<'a> Forward<'a> {
    /// Adds the difference of two paths of one rank and scale over `x` or, under dropout, over the `masked` input. Returns
    /// `z = x·Aᵀ [T, r]`, which the backward pass needs.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn difference(
        &mut self,
        path: LowRank<'a>,
        start: LowRank<'a>,
        masked: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (rank, precision) = (path.rank, riding(self.linear));
        start.check(self.linear)?;
        let z = self.inner(path, masked)?;
        let moved = change(path.a, start.a);
        let of_moved = self.inner(LowRank { a: &moved, ..path }, masked)?;
        let b = Cow::Owned(change(path.b, start.b));
        self.ups.push((scaled(&z, path.scale, rank, precision), b, rank));
        self.ups.push((scaled(&of_moved, path.scale, rank, precision), Cow::Borrowed(start.b), rank));
        Tensor::new(z, (self.input().shape().0, rank))
    }
}

impl<'a> Backward<'a> {
    /// Adds the difference's part of `dx`, times the dropout factors `mask [T, in]` if there were any. Returns `dz = s·dy·B
    /// [T, r]`.
    ///
    /// # Errors
    /// Returns an error if the shapes do not fit.
    pub fn difference(
        &mut self,
        path: LowRank<'a>,
        start: LowRank<'a>,
        mask: Option<&'a Tensor>,
    ) -> Result<Vec<f32>> {
        let (rank, precision) = (path.rank, riding(self.linear));
        start.check(self.linear)?;
        let of_b = self.through_b(LowRank { b: &change(path.b, start.b), ..path })?;
        let of_start = self.through_b(start)?;
        let dz = of_b.iter().zip(&of_start).map(|(x, y)| x + y).collect();
        let part = |dz: &[f32], a| PathBack { dz: scaled(dz, 1.0, rank, precision), a, rank, mask };
        let parts =
            [part(&of_b, Cow::Borrowed(path.a)), part(&of_start, Cow::Owned(change(path.a, start.a)))];
        self.paths.extend(parts);
        Ok(dz)
    }
}
