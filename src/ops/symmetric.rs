//! Small symmetric matrices in f64, from which properties of a product of low-rank matrices follow.

/// A square matrix `[n, n]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    /// Rows and columns.
    pub n: usize,
    /// The elements.
    pub values: Vec<f64>,
}

/// Eigenvalues in descending order, and their vectors as rows.
pub struct Eigen {
    /// The eigenvalues.
    pub values: Vec<f64>,
    /// The vectors.
    pub vectors: Square,
}

impl Square {
    /// Creates a matrix from its elements by row and column.
    pub fn from_fn(n: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        Self { n, values: (0..n * n).map(|at| value(at / n, at % n)).collect() }
    }

    /// The element of row `i` and column `j`.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.n + j]
    }

    /// `self·other`.
    pub fn times(&self, other: &Self) -> Self {
        Self::from_fn(self.n, |i, j| (0..self.n).map(|k| self.at(i, k) * other.at(k, j)).sum())
    }

    /// `selfᵀ`.
    pub fn transposed(&self) -> Self {
        Self::from_fn(self.n, |i, j| self.at(j, i))
    }

    /// Eigenvalues and vectors of a symmetric matrix by Jacobi's rotations, row by row (Golub & Van Loan, 8.5).
    pub fn eigen(mut self) -> Eigen {
        let n = self.n;
        let mut vectors = Self::from_fn(n, |i, j| f64::from(u8::from(i == j)));
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
        let small = norm(&self.values) * f64::EPSILON * f64::EPSILON;
        // Convergence is quadratic: some ten sweeps for any size met here.
        for _ in 0..60 {
            let off: f64 =
                (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| self.at(i, j).powi(2)).sum();
            if off <= small || !off.is_finite() {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    self.rotate(p, q, &mut vectors);
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|i, j| self.at(*j, *j).total_cmp(&self.at(*i, *i)));
        Eigen {
            values: order.iter().map(|i| self.at(*i, *i)).collect(),
            vectors: Self::from_fn(n, |i, j| vectors.at(order[i], j)),
        }
    }

    /// Rotates rows and columns `p` and `q` so that their common element is 0, and the rows of `vectors` with them.
    fn rotate(&mut self, p: usize, q: usize, vectors: &mut Self) {
        let off = self.at(p, q);
        if off == 0.0 {
            return;
        }
        let tau = (self.at(q, q) - self.at(p, p)) / (2.0 * off);
        let tangent = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
        let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
        let sine = tangent * cosine;
        let n = self.n;
        let turn = |values: &mut [f64], p: usize, q: usize| {
            let (x, y) = (values[p], values[q]);
            values[p] = cosine * x - sine * y;
            values[q] = sine * x + cosine * y;
        };
        for k in 0..n {
            turn(&mut self.values, k * n + p, k * n + q);
        }
        for k in 0..n {
            turn(&mut self.values, p * n + k, q * n + k);
            turn(&mut vectors.values, p * n + k, q * n + k);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn a_symmetric_matrix_is_made_again_of_its_eigenvectors() {
        let stream = Stream::new(1, "eigen");
        for n in [1, 2, 7, 40] {
            let random = Square::from_fn(n, |i, j| f64::from(stream.uniform((i * n + j) as u64)) - 0.5);
            let matrix = Square::from_fn(n, |i, j| random.at(i, j) + random.at(j, i));
            let Eigen { values, vectors } = matrix.clone().eigen();
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]));
            let again = |i: usize, j: usize| -> f64 {
                (0..n).map(|k| values[k] * vectors.at(k, i) * vectors.at(k, j)).sum()
            };
            let unit = vectors.times(&vectors.transposed());
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                assert!((again(i, j) - matrix.at(i, j)).abs() < 1e-12, "{n}: {i} {j}");
                assert!((unit.at(i, j) - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn eigenvalues_known_by_hand_and_matrices_without_any() {
        let matrix = Square { n: 2, values: vec![2.0, 1.0, 1.0, 2.0] };
        let values = matrix.eigen().values;
        assert!((values[0] - 3.0).abs() < 1e-14 && (values[1] - 1.0).abs() < 1e-14, "{values:?}");
        assert_eq!(Square { n: 2, values: vec![0.0; 4] }.eigen().values, [0.0, 0.0]);
        assert_eq!(Square { n: 0, values: Vec::new() }.eigen().values, [0.0; 0]);
        // It terminates, whatever the result.
        assert_eq!(Square { n: 2, values: vec![f64::NAN; 4] }.eigen().values.len(), 2);
    }
}
