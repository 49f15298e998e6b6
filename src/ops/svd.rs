//! The largest singular values of a matrix with their vectors, by subspace iteration (Halko et al. 2011, arXiv 0909.4061,
//! algorithm 4.4). The bits depend on neither the number of threads nor the machine's random numbers.

use super::gemm::{Operand, Precision, gemm};
use super::symmetric::Square;
use crate::random::Stream;
use crate::weights::Elements;

/// Dimensions of the subspace beyond twice the wanted number of vectors. The more there are, the fewer iterations.
const OVERSAMPLING: usize = 16;
/// Iterations between two looks at the singular values.
const BETWEEN: usize = 8;
/// Most of these looks.
const LOOKS: usize = 12;
/// Singular values have settled if they change by less than this share of the largest.
const SETTLED: f64 = 1e-7;

/// How long to iterate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iterations {
    /// So many times.
    Fixed(usize),
    /// Until the singular values no longer change.
    UntilSettled,
}

/// Singular values, descending, and their vectors.
#[derive(Clone, Debug)]
pub struct Svd {
    /// The singular values `[r]`.
    pub values: Vec<f64>,
    /// The left singular vectors as rows `[r, m]`; zeros where the value is 0.
    pub left: Vec<f32>,
    /// The right singular vectors as rows `[r, n]`.
    pub right: Vec<f32>,
}

/// Returns the `rank` largest singular values of `matrix [m, n]` with their vectors, or as many as there are.
pub fn leading(
    matrix: &[f32],
    (m, n): (usize, usize),
    rank: usize,
    iterations: Iterations,
    stream: Stream,
) -> Svd {
    let least = m.min(n);
    let width = (2 * rank + OVERSAMPLING).min(least);
    let mut basis: Vec<f32> = (0..width * n).map(|i| stream.uniform(i as u64) - 0.5).collect(); // [width, n]
    orthonormalise(&mut basis, n);
    let once = |basis: &mut Vec<f32>| {
        let mut image = through(basis, matrix, (width, m, n)); // [width, m]
        orthonormalise(&mut image, m);
        *basis = back(&image, matrix, (width, m, n));
        orthonormalise(basis, n);
    };
    let rank = rank.min(least);
    // A subspace of all dimensions is found at once.
    let iterations = if width == least { Iterations::Fixed(1) } else { iterations };
    match iterations {
        Iterations::Fixed(count) => (0..count).for_each(|_| once(&mut basis)),
        Iterations::UntilSettled => {
            let mut before: Option<Svd> = None;
            for _ in 0..LOOKS {
                (0..BETWEEN).for_each(|_| once(&mut basis));
                let found = extract(&basis, matrix, (width, m, n), rank);
                if before.is_some_and(|before| has_settled(&before.values, &found.values)) {
                    return found;
                }
                before = Some(found);
            }
        }
    }
    extract(&basis, matrix, (width, m, n), rank)
}

fn has_settled(before: &[f64], after: &[f64]) -> bool {
    let largest = after.first().copied().unwrap_or(0.0);
    before.iter().zip(after).all(|(x, y)| (x - y).abs() <= SETTLED * largest)
}

/// `Q·Wᵀ [width, m]` of the rows of `Q [width, n]`.
fn through(basis: &[f32], matrix: &[f32], (width, m, n): (usize, usize, usize)) -> Vec<f32> {
    let left = Operand::by_row(Elements::F32(basis), width, n);
    gemm(&left, &Operand::by_row(Elements::F32(matrix), m, n), Precision::F32)
}

/// `Y·W [width, n]` of the rows of `Y [width, m]`.
fn back(image: &[f32], matrix: &[f32], (width, m, n): (usize, usize, usize)) -> Vec<f32> {
    let left = Operand::by_row(Elements::F32(image), width, m);
    gemm(&left, &Operand::by_column(Elements::F32(matrix), m, n), Precision::F32)
}

/// The singular values and vectors of the matrix within the span of `basis [width, n]`.
fn extract(basis: &[f32], matrix: &[f32], (width, m, n): (usize, usize, usize), rank: usize) -> Svd {
    let image = through(basis, matrix, (width, m, n));
    let row = |i: usize| &image[i * m..(i + 1) * m];
    let eigen = Square::from_fn(width, |i, j| dot(row(i), row(j))).eigen();
    let values: Vec<f64> = eigen.values.iter().take(rank).map(|x| x.max(0.0).sqrt()).collect();
    let floor = values.first().copied().unwrap_or(0.0) * 1e-6;
    let combined = |vectors: &[f32], length: usize, i: usize, factor: f64| -> Vec<f32> {
        let mut sum = vec![0.0f64; length];
        for j in 0..width {
            let weight = eigen.vectors.at(i, j) * factor;
            sum.iter_mut().zip(&vectors[j * length..]).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        sum.into_iter().map(|x| x as f32).collect()
    };
    // Below the floor a vector would be noise.
    let inverse = |value: f64| if value > floor { 1.0 / value } else { 0.0 };
    let left = values.iter().enumerate().flat_map(|(i, value)| combined(&image, m, i, inverse(*value)));
    let left = left.collect();
    let right = (0..rank).flat_map(|i| combined(basis, n, i, 1.0)).collect();
    Svd { values, left, right }
}

/// Makes the rows of a matrix orthonormal, twice, so that rounding does not matter (Giraud et al. 2005). A row that
/// depends on those before it becomes 0.
fn orthonormalise(rows: &mut [f32], length: usize) {
    for i in 0..rows.len() / length.max(1) {
        let (before, rest) = rows.split_at_mut(i * length);
        let row = &mut rest[..length];
        let size = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in before.chunks_exact(length) {
                let share = dot(row, other) as f32;
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
            }
        }
        let norm = dot(row, row).sqrt();
        let factor = if norm > 1e-6 * size { (1.0 / norm) as f32 } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// A dot product in f64, in eight sums, so that one addition does not wait for the one before.
fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += f64::from(*x) * f64::from(*y));
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64, count: usize) -> Vec<f32> {
        let stream = Stream::new(seed, "svd");
        (0..count).map(|i| stream.uniform(i as u64) - 0.5).collect()
    }

    /// A matrix with singular values 2⁻ⁱ and its vectors.
    fn known(m: usize, n: usize, count: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut left, mut right) = (random(1, count * m), random(2, count * n));
        orthonormalise(&mut left, m);
        orthonormalise(&mut right, n);
        let element = |i: usize, j: usize| -> f32 {
            (0..count).map(|k| left[k * m + i] * right[k * n + j] * 0.5f32.powi(k as i32)).sum()
        };
        let matrix = (0..m * n).map(|at| element(at / n, at % n)).collect();
        (matrix, left, right)
    }

    #[test]
    fn values_and_vectors_of_a_known_matrix_are_found() {
        for (m, n) in [(90, 130), (130, 90), (20, 25)] {
            let (matrix, left, right) = known(m, n, 12);
            for iterations in [Iterations::UntilSettled, Iterations::Fixed(4)] {
                let found = leading(&matrix, (m, n), 5, iterations, Stream::new(3, "start"));
                assert_eq!(found.values.len(), 5);
                for i in 0..5 {
                    let want = 0.5f64.powi(i as i32);
                    assert!((found.values[i] - want).abs() < 1e-5 * want, "{i}: {}", found.values[i]);
                    let of = |all: &[f32], own: &[f32], length: usize| {
                        dot(&all[i * length..(i + 1) * length], &own[i * length..(i + 1) * length])
                    };
                    let (u, v) = (of(&left, &found.left, m), of(&right, &found.right, n));
                    assert!(u * v > 0.0 && u.abs() > 0.99999 && v.abs() > 0.99999, "{m} {n} {i}: {u} {v}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_has_zeros_for_what_it_lacks() {
        let (matrix, ..) = known(30, 40, 2);
        let found = leading(&matrix, (30, 40), 4, Iterations::UntilSettled, Stream::new(3, "start"));
        assert!(found.values[2] < 1e-6 && found.left[60..].iter().all(|x| *x == 0.0), "{:?}", found.values);
        assert!(found.left.iter().chain(&found.right).all(|x| x.is_finite()));
        let none = leading(&[0.0; 12], (3, 4), 2, Iterations::UntilSettled, Stream::new(3, "start"));
        assert_eq!((none.values, none.left), (vec![0.0; 2], vec![0.0; 6]));
    }
}
