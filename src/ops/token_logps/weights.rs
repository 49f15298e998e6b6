//! The gradient of the head's weight, for heads that are trained.
//!
//! With `g_sj = c_s·scale·l'_sj·(1[y_s = j] − p_sj)`, where `c_s` is the factor of row s: `dW = Gᵀ·H` and `db = Σ_s g_s`.
//! Blocks of the vocabulary are computed again, so that logits are never all there.

use super::{LogitShape, ROW_BLOCK, VOCAB_BLOCK, shape_row};
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::gemm::{Elements, Operand, Precision, gemm, gemm_add};
use crate::ops::host;
use crate::ops::simd::vectorised;

/// The scored rows, and what the forward pass computed of them.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Hidden states `[S, H]`.
    pub hidden: &'a Tensor,
    /// The output of the (part of the) head that is the row's target, if it is in the part `[S]`.
    pub targets: &'a [Option<usize>],
    /// The log of the sum of exponentials over the whole vocabulary `[S]`.
    pub normalizers: &'a [f32],
    /// The factor of the row's log-prob `[S]`.
    pub factors: &'a [f32],
}

/// Adds to `weight [V, H]`, and to `bias [V]` if there is one, the gradient of `Σ_s factors[s]·logp_s`. `part` has the rows
/// of the head that are trained, all of them or some.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn weight_gradient(
    scored: Scored,
    part: &Linear,
    shape: LogitShape,
    weight: &mut [f32],
    bias: Option<&mut [f32]>,
) -> Result<()> {
    let Scored { hidden, targets, normalizers, factors } = scored;
    let (rows, width) = hidden.shape();
    let (outputs, fits) = (part.outputs(), part.inputs() == width && weight.len() == part.outputs() * width);
    if !fits || [targets.len(), normalizers.len(), factors.len()] != [rows; 3] {
        return Err(Error::Model(format!(
            "the gradient of a head [{outputs}, {}] for {rows} rows of {width} features",
            part.inputs()
        )));
    }
    let (precision, mut bias) = (Precision::of(&part.weight().elements()), bias);
    for start in (0..rows).step_by(ROW_BLOCK) {
        let count = ROW_BLOCK.min(rows - start);
        let hidden = &hidden.numbers()[start * width..(start + count) * width];
        for first in (0..outputs).step_by(VOCAB_BLOCK) {
            let end = (first + VOCAB_BLOCK).min(outputs);
            let x = Operand::by_row(Elements::F32(hidden), count, width);
            let mut g = gemm(&x, &part.rows_operand(first..end, true), precision); // [S, block]
            host::update_rows(&mut g, end - first, |row, g| {
                if let Some(bias) = part.bias() {
                    g.iter_mut().zip(&bias[first..end]).for_each(|(l, b)| *l += b);
                }
                shape_row(g, shape.scale, shape.softcap);
                let row = start + row;
                let target = targets[row].filter(|target| (first..end).contains(target));
                let factor = factors[row] * shape.scale;
                let logit = target.map(|target| g[target - first]);
                coefficients(g, normalizers[row], factor, shape.softcap);
                if let (Some(target), Some(logit)) = (target, logit) {
                    let slope = shape.softcap.map_or(1.0, |c| 1.0 - (logit / c) * (logit / c));
                    g[target - first] += factor * slope;
                }
            });
            let (left, right) = (
                Operand::by_column(Elements::F32(&g), count, end - first),
                Operand::by_column(Elements::F32(hidden), count, width),
            );
            gemm_add(&mut weight[first * width..end * width], &left, &right, Precision::F32);
            if let Some(bias) = &mut bias {
                for g in g.chunks_exact(end - first) {
                    bias[first..end].iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
                }
            }
        }
    }
    Ok(())
}

vectorised! {
    /// Replaces the logits of a row by `−factor·p·l'`.
    fn coefficients(l: &mut [f32], normalizer: f32, factor: f32, softcap: Option<f32>) {
        for l in l.iter_mut() {
            let slope = softcap.map_or(1.0, |c| 1.0 - (*l / c) * (*l / c));
            *l = -factor * slope * crate::ops::simd::exp::<FMA>(*l - normalizer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forward;
    use super::*;
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
    use crate::weights::FrozenWeight;

    const ROWS: usize = 7;
    const WIDTH: usize = 6;

    fn head(weight: &[f32], bias: Option<&[f32]>) -> Linear {
        let shape = [weight.len() / WIDTH, WIDTH];
        Linear::new(
            FrozenWeight::from_f32(weight.to_vec(), &shape).unwrap(),
            false,
            bias.map(<[f32]>::to_vec),
        )
    }

    fn gradient(
        head: &Linear,
        part: &Linear,
        hits: &[Option<usize>],
        (hidden, targets, factors): (&Tensor, &[u32], &Tensor),
        shape: LogitShape,
    ) -> (Vec<f32>, Vec<f32>) {
        let normalizers = forward(hidden, head, shape, targets, false).unwrap().normalizers;
        let factors = factors.numbers();
        let scored = Scored { hidden, targets: hits, normalizers: &normalizers, factors };
        let (mut weight, mut bias) = (vec![0.0; part.outputs() * WIDTH], vec![0.0; part.outputs()]);
        weight_gradient(scored, part, shape, &mut weight, Some(&mut bias)).unwrap();
        (weight, bias)
    }

    #[test]
    fn gradients_are_those_of_finite_differences_for_all_rows_and_for_some() {
        let (hidden, factors) = (noise(&[ROWS, WIDTH], 1), noise(&[ROWS, 1], 2));
        // A small vocabulary for the differences; two blocks of it below.
        let (weight, bias) = (noise_of(11 * WIDTH, 3), noise_of(11, 4));
        let targets = [0, 10, 3, 3, 7, 9, 1];
        for shape in [LogitShape::default(), LogitShape { scale: 0.25, softcap: Some(2.0) }] {
            let of = |weight: &[f32], bias: &[f32]| {
                let head = head(weight, Some(bias));
                Tensor::new(forward(&hidden, &head, shape, &targets, false)?.logps, (ROWS, 1))
            };
            let whole = head(&weight, Some(&bias));
            let hits: Vec<Option<usize>> = targets.iter().map(|t| Some(*t as usize)).collect();
            let (dw, db) = gradient(&whole, &whole, &hits, (&hidden, &targets, &factors), shape);
            let tensor = |x: &[f32]| Tensor::new(x.to_vec(), (1, x.len())).unwrap();
            assert_finite_differences(&tensor(&weight), &factors, &tensor(&dw), |w| of(w.numbers(), &bias));
            assert_finite_differences(&tensor(&bias), &factors, &tensor(&db), |b| of(&weight, b.numbers()));
            let some = [9usize, 3];
            let rows: Vec<f32> =
                some.iter().flat_map(|t| weight[t * WIDTH..(t + 1) * WIDTH].to_vec()).collect();
            let part = head(&rows, Some(&[bias[9], bias[3]]));
            let hits: Vec<Option<usize>> =
                targets.iter().map(|t| some.iter().position(|s| *s == *t as usize)).collect();
            let (found, _) = gradient(&whole, &part, &hits, (&hidden, &targets, &factors), shape);
            let want: Vec<f32> = some.iter().flat_map(|t| dw[t * WIDTH..(t + 1) * WIDTH].to_vec()).collect();
            assert_same(&tensor(&found), &tensor(&want), 1e-5, "some rows");
        }
    }

    #[test]
    fn blocks_of_the_vocabulary_change_nothing() {
        let vocab = VOCAB_BLOCK + 300;
        let (hidden, factors) = (noise(&[ROWS, WIDTH], 1), noise(&[ROWS, 1], 2));
        let whole = head(&noise_of(vocab * WIDTH, 3), None);
        let targets: Vec<u32> = vec![0, 4095, 4096, 4300, 1, 2, 3];
        let hits: Vec<Option<usize>> = targets.iter().map(|t| Some(*t as usize)).collect();
        let shape = LogitShape::default();
        let (dw, _) = gradient(&whole, &whole, &hits, (&hidden, &targets, &factors), shape);
        // In f64, at a few rows.
        let lse = forward(&hidden, &whole, shape, &targets, false).unwrap().normalizers;
        let mut row = vec![0.0; WIDTH];
        for output in [0, 17, 4095, 4096, vocab - 1] {
            whole.output_row(output, &mut row);
            for column in 0..WIDTH {
                let term = |s: usize| {
                    let dot = |(x, w): (&f32, &f32)| f64::from(*x) * f64::from(*w);
                    let logit: f64 = hidden.row(s).iter().zip(&row).map(dot).sum();
                    let hit = f64::from(u8::from(targets[s] as usize == output));
                    let g = f64::from(factors.numbers()[s]) * (hit - (logit - f64::from(lse[s])).exp());
                    g * f64::from(hidden.row(s)[column])
                };
                let want: f64 = (0..ROWS).map(term).sum();
                let found = f64::from(dw[output * WIDTH + column]);
                assert!((found - want).abs() < 1e-5 * (1.0 + want.abs()), "{output}: {found} {want}");
            }
        }
    }
}
