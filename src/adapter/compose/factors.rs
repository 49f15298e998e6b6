//! Singular values of a product of thin matrices, without computing the product.
//!
//! `B·Aᵀ = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ`, so the singular values are those of the small core, and the vectors follow by the two Q.
//! Householder's QR (Golub & Van Loan, 5.2) and Hestenes' one-sided Jacobi (8.6.3), in f64.

/// A matrix, stored by columns.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub rows: usize,
    pub columns: Vec<Vec<f64>>,
}

/// The leading singular triples of `B·Aᵀ`.
pub(super) struct Truncated {
    /// Left vectors times singular values, `[out, k]`.
    pub b: Columns,
    /// Right vectors, `[in, k]`.
    pub a: Columns,
    /// Squares of all singular values, descending.
    pub squares: Vec<f64>,
}

impl Columns {
    /// `self·other`.
    fn times(&self, other: &Self) -> Self {
        let column = |weights: &Vec<f64>| {
            let mut sum = vec![0.0; self.rows];
            for (column, weight) in self.columns.iter().zip(weights) {
                column.iter().zip(&mut sum).for_each(|(x, sum)| *sum += x * weight);
            }
            sum
        };
        Self { rows: self.rows, columns: other.columns.iter().map(column).collect() }
    }

    fn transposed(&self) -> Self {
        let row = |i: usize| self.columns.iter().map(|column| column[i]).collect();
        Self { rows: self.columns.len(), columns: (0..self.rows).map(row).collect() }
    }
}

/// `B [out, R]·Aᵀ [R, in]` reduced to at most `rank` triples; fewer if the matrices have no more.
pub(super) fn truncated(b: Columns, a: Columns, rank: usize) -> Truncated {
    let ((q_b, r_b), (q_a, r_a)) = (qr(b), qr(a));
    let core = r_b.times(&r_a.transposed());
    let tall = core.rows >= core.columns.len();
    let (scaled, right) = svd(if tall { core } else { core.transposed() });
    let squares: Vec<f64> = scaled.columns.iter().map(|column| dot(column, column)).collect();
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|i, j| squares[*j].total_cmp(&squares[*i]));
    let kept = &order[..rank.min(order.len())];
    let pick = |from: &Columns, change: &dyn Fn(usize, f64) -> f64| Columns {
        rows: from.rows,
        columns: kept.iter().map(|i| from.columns[*i].iter().map(|x| change(*i, *x)).collect()).collect(),
    };
    let size = |i: usize| squares[i].sqrt();
    let (left, right) = if tall {
        (pick(&scaled, &|_, x| x), pick(&right, &|_, x| x))
    } else {
        // In the transpose left and right are exchanged: the values move to the other side.
        (
            pick(&right, &|i, x| x * size(i)),
            pick(&scaled, &|i, x| if size(i) > 0.0 { x / size(i) } else { 0.0 }),
        )
    };
    Truncated {
        b: q_b.times(&left),
        a: q_a.times(&right),
        squares: order.iter().map(|i| squares[*i]).collect(),
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// `A [m, n] = Q [m, k]·R [k, n]`, k = min(m, n).
fn qr(mut a: Columns) -> (Columns, Columns) {
    let (m, n) = (a.rows, a.columns.len());
    let k = m.min(n);
    let reflect = |v: &[f64], at: usize, x: &mut [f64]| {
        let twice = 2.0 * dot(v, &x[at..]);
        x[at..].iter_mut().zip(v).for_each(|(x, v)| *x -= twice * v);
    };
    let mut reflectors: Vec<Vec<f64>> = Vec::with_capacity(k);
    for j in 0..k {
        let mut v = a.columns[j][j..].to_vec();
        // The sign is chosen so that nothing cancels.
        v[0] += dot(&v, &v).sqrt().copysign(v[0]);
        let norm = dot(&v, &v).sqrt();
        if norm > 0.0 {
            v.iter_mut().for_each(|x| *x /= norm);
        }
        a.columns[j..].iter_mut().for_each(|column| reflect(&v, j, column));
        reflectors.push(v);
    }
    let unit = |i: usize| {
        let mut x = vec![0.0; m];
        x[i] = 1.0;
        reflectors.iter().enumerate().rev().for_each(|(at, v)| reflect(v, at, &mut x));
        x
    };
    let q = Columns { rows: m, columns: (0..k).map(unit).collect() };
    let upper =
        |(j, column): (usize, &Vec<f64>)| (0..k).map(|i| if i <= j { column[i] } else { 0.0 }).collect();
    (q, Columns { rows: k, columns: a.columns.iter().enumerate().map(upper).collect() })
}

/// `(U·S, V)` of `M = U·S·Vᵀ` with at least as many rows as columns; not sorted.
fn svd(mut m: Columns) -> (Columns, Columns) {
    let n = m.columns.len();
    let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect();
    let mut v = Columns { rows: n, columns: (0..n).map(unit).collect() };
    // Convergence is quadratic: some ten sweeps for any size met here.
    for _ in 0..60 {
        let mut turned = false;
        for p in 0..n {
            for q in p + 1..n {
                turned |= orthogonalise(&mut m, &mut v, p, q);
            }
        }
        if !turned {
            break;
        }
    }
    (m, v)
}

/// Rotates columns `p < q` of `m` so that they are orthogonal, and `v` with them; returns whether that was necessary.
fn orthogonalise(m: &mut Columns, v: &mut Columns, p: usize, q: usize) -> bool {
    let (x, y) = (&m.columns[p], &m.columns[q]);
    let (xx, yy, xy) = (dot(x, x), dot(y, y), dot(x, y));
    if xy.abs() <= 1e-15 * (xx * yy).sqrt() || !(xx + yy).is_finite() {
        return false;
    }
    let tau = (yy - xx) / (2.0 * xy);
    let tangent = tau.signum() / (tau.abs() + (1.0 + tau * tau).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = tangent * cosine;
    for of in [m, v] {
        let (left, right) = of.columns.split_at_mut(q);
        for (x, y) in left[p].iter_mut().zip(&mut right[0]) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn random(rows: usize, columns: usize, name: &str) -> Columns {
        let stream = Stream::new(1, name);
        let column =
            |j: usize| (0..rows).map(|i| f64::from(stream.uniform((j * rows + i) as u64)) - 0.5).collect();
        Columns { rows, columns: (0..columns).map(column).collect() }
    }

    fn product(b: &Columns, a: &Columns) -> Columns {
        b.times(&a.transposed())
    }

    fn apart(x: &Columns, y: &Columns) -> f64 {
        assert_eq!((x.rows, x.columns.len()), (y.rows, y.columns.len()));
        x.columns
            .iter()
            .flatten()
            .zip(y.columns.iter().flatten())
            .map(|(x, y)| (x - y).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn nothing_is_lost_at_full_rank_and_vectors_are_orthonormal() {
        // More ranks than rows on either side, on both, on none.
        for (out, inputs, rank) in [(9, 7, 3), (2, 7, 4), (9, 3, 4), (2, 3, 6), (1, 1, 1), (5, 5, 5)] {
            let (b, a) = (random(out, rank, "b"), random(inputs, rank, "a"));
            let exact = product(&b, &a);
            let found = truncated(b, a, 100);
            assert_eq!(found.b.columns.len(), rank.min(out).min(inputs));
            assert!(apart(&product(&found.b, &found.a), &exact) < 1e-13, "{out} {inputs} {rank}");
            for (i, x) in found.a.columns.iter().enumerate() {
                for (j, y) in found.a.columns.iter().enumerate() {
                    assert!((dot(x, y) - f64::from(u8::from(i == j))).abs() < 1e-13);
                }
            }
            let energy: f64 = exact.columns.iter().flatten().map(|x| x * x).sum();
            assert!((found.squares.iter().sum::<f64>() / energy - 1.0).abs() < 1e-13);
            assert!(found.squares.windows(2).all(|pair| pair[0] >= pair[1]));
        }
    }

    #[test]
    fn a_cut_loses_what_eckart_and_young_say() {
        let (b, a) = (random(20, 6, "b"), random(15, 6, "a"));
        let exact = product(&b, &a);
        for rank in 1..6 {
            let found = truncated(b.clone(), a.clone(), rank);
            let off = product(&found.b, &found.a);
            let error: f64 = off
                .columns
                .iter()
                .flatten()
                .zip(exact.columns.iter().flatten())
                .map(|(x, y)| (x - y).powi(2))
                .sum();
            let lost: f64 = found.squares[rank..].iter().sum();
            assert!((error / lost - 1.0).abs() < 1e-9, "{rank}: {error} for {lost}");
        }
    }

    #[test]
    fn zeros_and_repeated_columns_have_a_rank_all_the_same() {
        let zero = Columns { rows: 5, columns: vec![vec![0.0; 5]; 3] };
        let found = truncated(zero.clone(), random(4, 3, "a"), 2);
        assert!(found.b.columns.iter().chain(&found.a.columns).flatten().all(|x| x.is_finite()));
        assert_eq!(found.squares.iter().sum::<f64>(), 0.0);
        let one = random(5, 1, "b").columns.remove(0);
        let twice = Columns { rows: 5, columns: vec![one.clone(), one.clone(), one] };
        let (a, exact) = (random(4, 3, "a"), product(&twice, &random(4, 3, "a")));
        let found = truncated(twice, a, 1);
        assert!(apart(&product(&found.b, &found.a), &exact) < 1e-13);
        // It terminates, whatever the result.
        truncated(Columns { rows: 2, columns: vec![vec![f64::NAN; 2]; 2] }, random(2, 2, "a"), 1);
    }
}
