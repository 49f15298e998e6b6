//! Log-probabilities of target tokens under the language-model head, and their gradient, without storing the logits.
//!
//! Let `z = scale·(h·Wᵀ + b)`, and `l = c·tanh(z/c)` if soft-capped: `log p(y) = l_y − log Σ_j e^{l_j}`. The vocabulary
//! is processed in blocks, with a running maximum and sum. On the policy pass each block's softmax is multiplied by `W`
//! immediately, so that `∂ log p(y) / ∂h = scale·(l'_y·W_y − Σ_j p_j·l'_j·W_j)` is available after the last block (the
//! online softmax of arXiv 1805.02867, over the vocabulary). The backward pass only scales rows.

mod weights;

use super::Tensor;
use super::frozen_linear::Linear;
use super::gemm::{Elements, Operand, Precision, gemm, gemm_add};
use super::host;
use super::simd::{maximum, vectorised};
use crate::error::{Error, Result};

pub use weights::{Scored, weight_gradient};

/// The operations between the head's product and the softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitShape {
    /// Factor of the logits (Granite divides them).
    pub scale: f32,
    /// `c` of the final soft-cap (Gemma 2).
    pub softcap: Option<f32>,
}

impl Default for LogitShape {
    fn default() -> Self {
        Self { scale: 1.0, softcap: None }
    }
}

impl LogitShape {
    /// Returns the shape of the logits divided by a temperature: `l/T = (c/T)·tanh((z/T)/(c/T))`.
    #[must_use]
    pub fn at(self, temperature: f64) -> Self {
        let by = temperature as f32;
        Self { scale: self.scale / by, softcap: self.softcap.map(|softcap| softcap / by) }
    }
}

/// Log-probs of the targets, and their gradients by row.
#[derive(Debug)]
pub struct TokenLogps {
    /// `log p(target)` in nats, `[S]`.
    pub logps: Vec<f32>,
    /// `∂ logp_s / ∂h [S, hidden]` on the policy pass.
    pub slopes: Option<Tensor>,
    /// `log Σ_j e^{l_j}` in nats, `[S]`.
    pub normalizers: Vec<f32>,
    /// `log Σ_v p_v²` in nats, `[S]`, if it was asked for.
    pub log_sum_squares: Option<Vec<f32>>,
}

/// What is computed besides the log-probs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The gradients.
    pub slopes: bool,
    /// The log of the sum of all squared probabilities.
    pub squares: bool,
}

/// Vocabulary entries per block; a constant, so that the bits of a row do not depend on anything else.
const VOCAB_BLOCK: usize = 4096;
/// Scored rows processed at once, so that a block of logits stays in the last-level cache.
const ROW_BLOCK: usize = 1024;

/// Returns the logits `[S, vocab]` of a few rows, for sampling and for comparing models.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn logits(hidden: &Tensor, head: &Linear, shape: LogitShape) -> Result<Tensor> {
    let y = head.forward(hidden)?;
    let (rows, vocab) = y.shape();
    let mut data = y.into_numbers();
    host::update_rows(&mut data, vocab, |_, row| shape_row(row, shape.scale, shape.softcap));
    Tensor::new(data, (rows, vocab))
}

/// Returns the log-probs of `targets [S]` at `hidden [S, H]`, with slopes for the policy pass.
///
/// # Errors
/// Returns an error if the shapes do not fit or a target is outside the vocabulary.
pub fn forward(
    hidden: &Tensor,
    head: &Linear,
    shape: LogitShape,
    targets: &[u32],
    slopes: bool,
) -> Result<TokenLogps> {
    forward_with(hidden, head, shape, targets, Asked { slopes, squares: false })
}

/// The same, and log Σ p² if it is asked for.
///
/// # Errors
/// As [`forward`].
pub fn forward_with(
    hidden: &Tensor,
    head: &Linear,
    shape: LogitShape,
    targets: &[u32],
    asked: Asked,
) -> Result<TokenLogps> {
    let (rows, width) = hidden.shape();
    if let Some(target) = targets.iter().find(|t| **t as usize >= head.outputs()) {
        return Err(Error::Model(format!("target token {target} of a vocabulary of {}", head.outputs())));
    }
    if rows != targets.len() {
        return Err(Error::Model(format!("{rows} scored rows, {} targets", targets.len())));
    }
    let hidden = hidden.numbers();
    let log_sum_squares = asked.squares.then(|| Vec::with_capacity(rows));
    let (logps, normalizers) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    let mut out = TokenLogps { logps, normalizers, slopes: None, log_sum_squares };
    let mut all_slopes = Vec::with_capacity(if asked.slopes { rows * width } else { 0 });
    for (hidden, targets) in hidden.chunks(ROW_BLOCK * width.max(1)).zip(targets.chunks(ROW_BLOCK)) {
        let mut running = Running::new(hidden, head, shape, targets, asked);
        for first in (0..head.outputs()).step_by(VOCAB_BLOCK) {
            running.block(first, (first + VOCAB_BLOCK).min(head.outputs()));
        }
        if let Some(all) = &mut out.log_sum_squares {
            all.extend(running.rows.iter().map(|row| (row.squares.ln() - 2.0 * row.sum.ln()) as f32));
        }
        out.normalizers.extend(running.rows.iter().map(|row| (f64::from(row.max) + row.sum.ln()) as f32));
        let (logps, slopes) = running.finish();
        out.logps.extend(logps);
        all_slopes.extend(slopes);
    }
    if asked.slopes {
        out.slopes = Some(Tensor::new(all_slopes, (rows, width))?);
    }
    Ok(out)
}

/// Returns the log-prob of `token`, in nats, under final logits `[vocab]`: the number that [`forward`] gives for them.
pub fn of_logits(logits: &[f32], token: u32) -> f32 {
    let mut row = Row::FRESH;
    let mut block = Vec::with_capacity(VOCAB_BLOCK.min(logits.len()));
    for (index, part) in logits.chunks(VOCAB_BLOCK).enumerate() {
        block.clear();
        block.extend_from_slice(part);
        let target = (token as usize).checked_sub(index * VOCAB_BLOCK).and_then(|at| part.get(at).copied());
        row.take(&mut block, target, None, false);
    }
    row.logp()
}

/// The running softmax of a chunk of rows.
struct Running<'a> {
    hidden: &'a [f32],
    head: &'a Linear,
    shape: LogitShape,
    targets: &'a [u32],
    /// State per row: the maximum and sum so far, the target's logit and the slope of its soft-cap.
    rows: Vec<Row>,
    /// Σ e^{l_j − max}·l'_j·W_j `[S, H]`; empty without slopes.
    mixed: Vec<f32>,
    asked: Asked,
}

#[derive(Clone, Copy)]
struct Row {
    max: f32,
    sum: f64,
    /// Σ e^{2(l_j − max)}, if it is asked for.
    squares: f64,
    target: f32,
    target_slope: f32,
}

impl<'a> Running<'a> {
    fn new(hidden: &'a [f32], head: &'a Linear, shape: LogitShape, targets: &'a [u32], asked: Asked) -> Self {
        let mixed = host::zeros(if asked.slopes { hidden.len() } else { 0 });
        Self { hidden, head, shape, targets, rows: vec![Row::FRESH; targets.len()], mixed, asked }
    }

    /// Processes the vocabulary entries `first..end`.
    fn block(&mut self, first: usize, end: usize) {
        let (count, width) = (self.targets.len(), self.head.inputs());
        let precision = Precision::of(&self.head.weight().elements());
        let hidden = Operand::by_row(Elements::F32(self.hidden), count, width);
        let mut logits = gemm(&hidden, &self.head.rows_operand(first..end, true), precision); // [S, block]
        let bias = self.head.bias().map(|bias| &bias[first..end]);
        let (shape, targets) = (self.shape, self.targets);
        let Asked { slopes, squares } = self.asked;
        use rayon::prelude::*;
        let factors: Vec<f32> = logits
            .par_chunks_exact_mut(end - first)
            .zip(self.rows.par_iter_mut())
            .enumerate()
            .with_max_len(1)
            .map(|(r, (logits, row))| {
                if let Some(bias) = bias {
                    logits.iter_mut().zip(bias).for_each(|(l, b)| *l += b);
                }
                shape_row(logits, shape.scale, shape.softcap);
                let target = (targets[r] as usize).checked_sub(first).and_then(|t| logits.get(t).copied());
                if squares {
                    row.take_squares(logits);
                }
                row.take(logits, target, shape.softcap, slopes)
            })
            .collect();
        if slopes {
            host::update_rows(&mut self.mixed, width, |r, mixed| {
                if factors[r] != 1.0 {
                    mixed.iter_mut().for_each(|x| *x *= factors[r]);
                }
            });
            let weights = Operand::by_row(Elements::F32(&logits), count, end - first);
            gemm_add(&mut self.mixed, &weights, &self.head.rows_operand(first..end, false), precision);
        }
    }

    fn finish(self) -> (Vec<f32>, Vec<f32>) {
        let width = self.head.inputs();
        let logps = self.rows.iter().map(Row::logp).collect();
        let scale = self.shape.scale;
        let mut slopes = self.mixed;
        host::update_rows(&mut slopes, width, |r, slope| {
            let (row, target) = (self.rows[r], self.targets[r] as usize);
            let norm = (1.0 / row.sum) as f32;
            let mut weight = vec![0.0; width];
            self.head.output_row(target, &mut weight);
            for (x, weight) in slope.iter_mut().zip(weight) {
                *x = scale * (row.target_slope * weight - *x * norm);
            }
        });
        (logps, slopes)
    }
}

impl Row {
    /// Before the first block.
    const FRESH: Self =
        Self { max: f32::NEG_INFINITY, sum: 0.0, squares: 0.0, target: 0.0, target_slope: 1.0 };

    /// The log-prob of the target after the last block.
    fn logp(&self) -> f32 {
        (f64::from(self.target - self.max) - self.sum.ln()) as f32
    }

    /// Adds the squares of a block of final logits; before [`Row::take`], which moves the maximum.
    fn take_squares(&mut self, logits: &[f32]) {
        let max = maximum(logits);
        let max = if self.max > max { self.max } else { max };
        let factor = if self.max == max { 1.0 } else { (self.max - max).exp() };
        let sum: f64 = logits.iter().map(|l| f64::from(2.0 * (l - max)).exp()).sum();
        self.squares = self.squares * f64::from(factor).powi(2) + sum;
    }

    /// Processes a block of final logits, which are replaced by the weights `e^{l − max}·l'` if `slopes` is set.
    /// Returns the factor by which the previous sums must be scaled.
    fn take(&mut self, logits: &mut [f32], target: Option<f32>, softcap: Option<f32>, slopes: bool) -> f32 {
        if let Some(target) = target {
            self.target = target;
            self.target_slope = softcap.map_or(1.0, |c| 1.0 - (target / c) * (target / c));
        }
        let max = maximum(logits);
        // `f32::max` would drop a NaN.
        let max = if self.max > max { self.max } else { max };
        let factor = if self.max == max { 1.0 } else { (self.max - max).exp() };
        let sum = weigh(logits, max, softcap.filter(|_| slopes));
        self.sum = self.sum * f64::from(factor) + f64::from(sum);
        self.max = max;
        factor
    }
}

vectorised! {
    /// Computes `x ← e^{x − max}`, times the soft-cap's slope if `softcap` is given, and returns the sum of the
    /// exponentials. The order is the same either way, so that the policy and the reference pass agree to the bit.
    fn weigh(x: &mut [f32], max: f32, softcap: Option<f32>) -> f32 {
        let mut sums = [0.0; super::simd::LANES];
        for chunk in x.chunks_mut(super::simd::LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                let slope = softcap.map_or(1.0, |c| 1.0 - (*x / c) * (*x / c));
                let weight = super::simd::exp::<FMA>(*x - max);
                *sum += weight;
                *x = weight * slope;
            }
        }
        super::simd::tree(sums)
    }
}

vectorised! {
    fn shape_row(x: &mut [f32], scale: f32, softcap: Option<f32>) {
        if scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(c) = softcap {
            for x in x.iter_mut() {
                // tanh(u) = 1 − 2 / (e^{2u} + 1)
                *x = c * (1.0 - 2.0 / (super::simd::exp::<FMA>(2.0 * *x / c) + 1.0));
            }
        }
    }
}

/// Returns the gradient of the scored hidden states `[S, H]`: row s of `slopes [S, H]` times `weights[s]`.
///
/// # Errors
/// Returns an error if the shapes do not fit.
pub fn backward(slopes: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let (rows, width) = slopes.shape();
    let slopes = slopes.numbers();
    let out = host::build_rows(rows, width, |row, out| {
        super::simd::scale_into(out, &slopes[row * width..(row + 1) * width], weights[row]);
    });
    Tensor::new(out, (rows, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::oracle::{self, Plain};
    use crate::ops::rows;
    use crate::ops::testing::{assert_finite_differences, assert_same, noise, noise_of};
    use crate::weights::FrozenWeight;

    /// The plain form: `hidden [S, H]`, `targets [S]` → `[S, 1]`.
    fn reference(hidden: &Plain, head: &Linear, shape: LogitShape, targets: &[u32]) -> Result<Plain> {
        let logits = logits_reference(hidden, head, shape)?;
        let max = logits.max_keepdim(1)?.detach();
        let shifted = logits.broadcast_sub(&max)?;
        let lse = shifted.exp()?.sum_keepdim(1)?.log()?;
        let targets = Plain::new(targets, hidden.device())?.unsqueeze(1)?;
        Ok((shifted.gather(&targets, 1)? - lse)?)
    }

    /// Returns the logits `[S, vocab]` that enter the softmax, in tensor operations.
    fn logits_reference(hidden: &Plain, head: &Linear, shape: LogitShape) -> Result<Plain> {
        let z = (oracle::linear(head, hidden)? * f64::from(shape.scale))?;
        match shape.softcap {
            Some(c) => Ok(((z / f64::from(c))?.tanh()? * f64::from(c))?),
            None => Ok(z),
        }
    }

    fn head(vocab: usize, transposed: bool) -> Linear {
        let shape = if transposed { [12, vocab] } else { [vocab, 12] };
        let bias = transposed.then(|| noise_of(vocab, 8));
        Linear::new(FrozenWeight::from_f32(noise_of(12 * vocab, 2), &shape).unwrap(), transposed, bias)
    }

    #[test]
    fn logps_and_slopes_match_the_plain_form() {
        let hidden = noise(&[9, 12], 1).map(|x| 3.0 * x);
        // More than one block of the vocabulary, targets in both, the first and the last.
        let vocab = VOCAB_BLOCK + 700;
        let targets: Vec<u32> = vec![0, 1, 4095, 4096, 4097, 4500, 3, 17, vocab as u32 - 1];
        let capped = LogitShape { scale: 0.25, softcap: Some(2.0) };
        for (transposed, shape) in
            [(false, LogitShape::default()), (true, LogitShape::default()), (false, capped)]
        {
            let head = head(vocab, transposed);
            let got = forward(&hidden, &head, shape, &targets, true).unwrap();
            let logps = Tensor::new(got.logps.clone(), (9, 1)).unwrap();
            let plain = |v: &[Plain]| reference(&v[0], &head, shape, &targets);
            assert_same(&logps, &oracle::value(&[&hidden], plain), 2e-6, "logps");
            let without = forward(&hidden, &head, shape, &targets, false).unwrap();
            assert_eq!(without.logps, got.logps, "the reference pass sees the same bits");

            let dy = noise(&[9, 1], 5);
            let rows = [0, 1, 2, 2, 4, 5, 6, 7, 8];
            // Rows 2 and 3 are scored at the same hidden state here.
            let at = rows::gather(&hidden, &rows).unwrap();
            let got = forward(&at, &head, shape, &targets, true).unwrap();
            let d_rows = backward(got.slopes.as_ref().unwrap(), dy.numbers()).unwrap();
            let d_gathered = rows::scatter_add(&d_rows, &rows, 9).unwrap();
            let plain = |h: &[Plain]| {
                let gathered = h[0].index_select(&Plain::new(&rows, h[0].device())?, 0)?;
                reference(&gathered, &head, shape, &targets)
            };
            let want = oracle::gradients(&[&hidden], &dy, plain).unwrap();
            assert_same(&d_gathered, &want[0], 5e-6, "gradient");
            assert_finite_differences(&hidden, &dy, &d_gathered, |h| {
                let at = rows::gather(h, &rows)?;
                Tensor::new(forward(&at, &head, shape, &targets, false)?.logps, (9, 1))
            });
        }
    }

    #[test]
    fn the_squares_are_those_of_the_softmax() {
        let hidden = noise(&[3, 12], 1).map(|x| 3.0 * x);
        let vocab = VOCAB_BLOCK + 700;
        let targets = [0, 4097, 3];
        for shape in [LogitShape::default(), LogitShape { scale: 0.25, softcap: Some(2.0) }] {
            let head = head(vocab, false);
            let asked = Asked { slopes: true, squares: true };
            let found = forward_with(&hidden, &head, shape, &targets, asked).unwrap();
            let plain = forward(&hidden, &head, shape, &targets, true).unwrap();
            assert_eq!(found.logps, plain.logps, "asking for more changes nothing");
            let plain = |v: &[Plain]| logits_reference(&v[0], &head, shape);
            let logits = oracle::value(&[&hidden], plain);
            for (row, found) in logits.numbers().chunks(vocab).zip(found.log_sum_squares.unwrap()) {
                let lse = |factor: f64| row.iter().map(|l| (factor * f64::from(*l)).exp()).sum::<f64>().ln();
                let expected = lse(2.0) - 2.0 * lse(1.0);
                assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_the_others() {
        let (hidden, head) = (noise(&[ROW_BLOCK + 5, 12], 1), head(300, false));
        let targets: Vec<u32> = (0..ROW_BLOCK as u32 + 5).map(|i| i % 300).collect();
        let all = forward(&hidden, &head, LogitShape::default(), &targets, false).unwrap().logps;
        let one = Tensor::new(hidden.row(ROW_BLOCK + 2).to_vec(), (1, 12)).unwrap();
        let alone = forward(&one, &head, LogitShape::default(), &targets[ROW_BLOCK + 2..ROW_BLOCK + 3], true)
            .unwrap();
        assert_eq!(alone.logps[0].to_bits(), all[ROW_BLOCK + 2].to_bits());
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_an_error() {
        assert!(
            forward(&noise(&[1, 12], 1), &head(300, false), LogitShape::default(), &[300], false).is_err()
        );
    }
}
