//! Gathering rows of an activation, and scattering their gradient back.

use super::Tensor;
use super::host;
use super::simd::add_scaled;
use crate::error::{Error, Result};

/// Returns `y[i] = x[rows[i]]`: `[T, n] → [rows.len(), n]`.
///
/// # Errors
/// Returns an error if a row index is out of range.
pub fn gather(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (total, width) = x.shape();
    check(rows, total)?;
    let x = x.numbers();
    let out = host::build_rows(rows.len(), width, |i, out| {
        out.copy_from_slice(&x[rows[i] as usize * width..][..width]);
    });
    Tensor::new(out, (rows.len(), width))
}

/// The gradient of [`gather`]: adds `dx[rows[i]] += dy[i]` onto zeros, in the order of `i`: `[rows.len(), n] → [total,
/// n]`.
///
/// # Errors
/// Returns an error if a row index is out of range or `dy` has a different number of rows.
pub fn scatter_add(dy: &Tensor, rows: &[u32], total: usize) -> Result<Tensor> {
    let (count, width) = dy.shape();
    check(rows, total)?;
    if count != rows.len() {
        return Err(Error::Model(format!("a gradient of {count} rows for {} picked ones", rows.len())));
    }
    let dy = dy.numbers();
    let mut out = host::zeros(total * width);
    for (dy, row) in dy.chunks_exact(width.max(1)).zip(rows) {
        add_scaled(&mut out[*row as usize * width..][..width], dy, 1.0);
    }
    Tensor::new(out, (total, width))
}

fn check(rows: &[u32], total: usize) -> Result<()> {
    match rows.iter().find(|row| **row as usize >= total) {
        Some(row) => Err(Error::Model(format!("row {row} of an activation that has {total}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{self, Plain};
    use crate::ops::testing::{assert_finite_differences, assert_same, noise};

    #[test]
    fn the_gradient_is_that_of_index_select() {
        // One row is gathered twice, others never.
        let (x, dy, rows) = (noise(&[7, 5], 1), noise(&[4, 5], 2), [6, 0, 3, 0]);
        let plain = |x: &[Plain]| Ok(x[0].index_select(&Plain::new(&rows, x[0].device())?, 0)?);
        assert_same(&gather(&x, &rows).unwrap(), &oracle::value(&[&x], plain), 0.0, "rows");
        let dx = scatter_add(&dy, &rows, 7).unwrap();
        let want = oracle::gradients(&[&x], &dy, plain).unwrap();
        assert_same(&dx, &want[0], 0.0, "gradient");
        assert_finite_differences(&x, &dy, &dx, |x| gather(x, &rows));
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let x = noise(&[3, 2], 1);
        assert!(gather(&x, &[0, 3]).is_err() && scatter_add(&x, &[0, 1, 3], 3).is_err());
        assert!(scatter_add(&x, &[0, 1], 3).is_err());
    }
}
