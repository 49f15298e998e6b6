//! Muon for matrices: Jordan et al. 2024 (<https://kellerjordan.github.io/posts/muon/>), as `torch.optim.Muon` with its
//! defaults (momentum 0.95, Nesterov, five steps). What is no matrix is updated by AdamW.
//!
//! With the momentum `B ← μ·B + (1 − μ)·G` and the update `U = (1 − μ)·G + μ·B`, scaled to Frobenius norm 1, each step of
//! Newton and Schulz is `X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X`, which brings all singular values near 1. Then
//! `θ ← θ·(1 − ηλ) − η·√max(1, rows/columns)·X`.
//!
//! torch rounds X to bf16; here it stays in f32.

use rayon::prelude::*;

use super::adamw::{self, lerp};
use super::pieces::{Piece, pieces, take};
use super::rates::Rates;
use super::rule::{OptimizerConfig, Rule};
use crate::trainable::Store;
use crate::trainable::store::{Moment, Parts};

const NAMES: &[&str] = &["momentum_buffer", "exp_avg", "exp_avg_sq"];
const MOMENTUM: f64 = 0.95;
const EPSILON: f32 = 1e-7;
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const STEPS: usize = 5;

/// Muon, which keeps the momentum of matrices and AdamW's moments of everything else.
pub(super) struct Muon {
    config: OptimizerConfig,
}

impl Muon {
    /// Creates the rule with the configured weight decay and, for AdamW, decay rates.
    pub(super) fn new(config: &OptimizerConfig) -> Self {
        Self { config: *config }
    }

    fn matrix(&self, piece: Piece, momentum: &mut [f32], (rows, columns): (usize, usize)) {
        let lr = piece.lr;
        let (added, kept) = ((1.0 - MOMENTUM) as f32, MOMENTUM as f32);
        let mut update = Vec::with_capacity(momentum.len());
        for (b, &g) in momentum.iter_mut().zip(piece.gradient) {
            *b = lerp(*b, g, added);
            update.push(lerp(g, *b, kept));
        }
        let direction = orthogonal(update, rows, columns);
        let decay = (1.0 - lr * self.config.weight_decay) as f32;
        let minus_lr = -(lr * (rows as f64 / columns as f64).max(1.0).sqrt()) as f32;
        for (p, o) in piece.values.iter_mut().zip(direction) {
            *p = *p * decay + minus_lr * o;
        }
    }
}

/// The dimensions of a matrix that has elements.
fn as_matrix(shape: &[usize]) -> Option<(usize, usize)> {
    match shape {
        [rows, columns] if rows * columns > 0 => Some((*rows, *columns)),
        _ => None,
    }
}

impl Rule for Muon {
    fn moments(&self) -> &'static [&'static str] {
        NAMES
    }

    fn start(&self, store: &Store) -> Vec<Moment> {
        let matrices = store.entries().iter().filter(|entry| as_matrix(&entry.shape).is_some());
        let matrices: usize = matrices.map(|entry| entry.range.len()).sum();
        let others = store.values().len() - matrices;
        vec![
            Moment::zeros(NAMES[0], matrices),
            Moment::zeros(NAMES[1], others),
            Moment::zeros(NAMES[2], others),
        ]
    }

    fn update(&self, step: u64, Parts { values, gradient, moments, entries }: Parts, rates: Rates) {
        let [momentum, exp_avg, exp_avg_sq] = moments else { return };
        let (mut momentum, mut m, mut v) = (momentum.f32s_mut(), exp_avg.f32s_mut(), exp_avg_sq.f32s_mut());
        let mut matrices = Vec::new();
        for piece in pieces(values, gradient, entries, rates) {
            let count = piece.values.len();
            match as_matrix(piece.shape) {
                Some(dims) => matrices.push((piece, take(&mut momentum, count), dims)),
                None => {
                    let (m, v) = (take(&mut m, count), take(&mut v, count));
                    adamw::step((&self.config, step, piece.lr), piece.values, piece.gradient, m, v);
                }
            }
        }
        // Each matrix is computed by one task, so that its bits do not depend on the number of threads.
        matrices.into_par_iter().for_each(|(piece, momentum, dims)| self.matrix(piece, momentum, dims));
    }
}

/// Brings the singular values of a matrix `[rows, columns]` near 1.
fn orthogonal(matrix: Vec<f32>, rows: usize, columns: usize) -> Vec<f32> {
    // The products with the shorter side are the cheaper ones.
    if rows > columns {
        let turned = orthogonal(transposed(&matrix, rows, columns), columns, rows);
        return transposed(&turned, columns, rows);
    }
    let norm = matrix.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt() as f32;
    let scale = 1.0 / norm.max(EPSILON);
    let mut x: Vec<f32> = matrix.into_iter().map(|x| x * scale).collect(); // [rows, columns]
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..STEPS {
        let gram = products(&x, rows, columns); // [rows, rows]
        // The Gram matrix is symmetric, so its square is the matrix of its rows' products.
        let square = products(&gram, rows, rows);
        let mut factors: Vec<f32> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        factors.iter_mut().step_by(rows + 1).for_each(|diagonal| *diagonal += a);
        x = combined(&factors, &x, rows, columns);
    }
    x
}

fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// The products of all pairs of rows: `X·Xᵀ [rows, rows]`.
fn products(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * rows];
    for i in 0..rows {
        for j in 0..=i {
            let product = dot(&x[i * columns..(i + 1) * columns], &x[j * columns..(j + 1) * columns]);
            (out[i * rows + j], out[j * rows + i]) = (product, product);
        }
    }
    out
}

/// A sum in sixteen lanes, so that the loop vectorises.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in x.iter().zip(y) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `F·X [rows, columns]` with `F [rows, rows]`.
fn combined(factors: &[f32], x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    for (out, factors) in out.chunks_exact_mut(columns).zip(factors.chunks_exact(rows)) {
        for (factor, x) in factors.iter().zip(x.chunks_exact(columns)) {
            out.iter_mut().zip(x).for_each(|(out, x)| *out += factor * x);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn singular_values_come_near_one_whichever_side_is_longer() {
        for (rows, columns) in [(3, 37), (37, 3), (5, 5), (1, 9)] {
            let matrix: Vec<f32> =
                (0..rows * columns).map(|i| ((i * i * 7 + 3 * i) % 23) as f32 / 9.0 - 1.1).collect();
            let found = orthogonal(matrix, rows, columns);
            let short = rows.min(columns);
            let wide = if rows > columns { transposed(&found, rows, columns) } else { found };
            let gram = products(&wide, short, rows.max(columns));
            for i in 0..short {
                // The iteration leaves singular values between about 0.68 and 1.13.
                let square = gram[i * (short + 1)];
                assert!((0.4..1.4).contains(&square), "{rows} {columns}: {square}");
            }
        }
        assert!(orthogonal(vec![0.0; 6], 2, 3).iter().all(|x| *x == 0.0));
    }
}
