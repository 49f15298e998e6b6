//! NEFTune: noise on the embeddings of a training pass (Jain et al. 2023, arXiv 2310.05914).
//!
//! `x ← x + U(−m, m)`, `m = α / √(L·hidden)`, with L the tokens of a sequence: here of a tree's prompt and its longest
//! completion, in transformers of the padded batch. Siblings share their prompt, and so its noise. Models that scale their
//! embeddings get the noise behind the scale.

use crate::data::PackedBatch;
use crate::error::Result;
use crate::ops::{Tensor, host};
use crate::random::Stream;

/// The noise of one training pass.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// α: `neftune_noise_alpha`.
    pub alpha: f64,
    /// The stream of this step and micro-batch; its children are the streams of the rows.
    pub stream: Stream,
}

impl Noise {
    /// Adds the noise to the embeddings `x [T, hidden]` of a batch.
    ///
    /// # Errors
    /// If `x` is not a matrix.
    pub fn add(&self, x: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        let (rows, hidden) = x.shape();
        let mut largest = vec![0.0f32; rows];
        for tree in &batch.trees {
            // The last token of a completion has no row.
            let longest = tree.completions.iter().map(|rows| rows.len() + batch.unread()).max().unwrap_or(0);
            let length = tree.prompt.len() + longest;
            let size = (self.alpha / ((length * hidden).max(1) as f64).sqrt()) as f32;
            let end = tree.completions.last().map_or(tree.prompt.end, |last| last.end);
            largest.iter_mut().take(end).skip(tree.prompt.start).for_each(|largest| *largest = size);
        }
        let x = x.numbers();
        let noisy = host::build_rows(rows, hidden, |row, out| {
            let stream = self.stream.child(row as u64);
            let own = &x[row * hidden..(row + 1) * hidden];
            for (i, (out, x)) in out.iter_mut().zip(own).enumerate() {
                *out = x + largest[row] * (2.0 * stream.uniform(i as u64) - 1.0);
            }
        });
        Tensor::new(noisy, (rows, hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Kind, Origin};

    #[test]
    fn the_noise_is_uniform_within_the_bound_of_its_sequence() {
        let example = |prompt: usize, completions: [usize; 2]| Example {
            prompt: vec![1; prompt],
            completions: completions.map(|n| vec![2; n]).to_vec(),
            kind: Kind::PAIR,
            origin: Origin::new("t", 1),
        };
        let batch = PackedBatch::new(&[&example(10, [3, 6]), &example(2, [2, 1])]);
        let (rows, hidden) = (batch.tokens.len(), 500);
        let x = Tensor::new(vec![3.0; rows * hidden], (rows, hidden)).unwrap();
        let noise = Noise { alpha: 5.0, stream: Stream::new(1, "neftune") };
        let found = noise.add(&x, &batch).unwrap();
        assert_eq!(found, noise.add(&x, &batch).unwrap());
        let found = found.into_numbers();
        // Sequences of 16 and 4 tokens; rows 0..17 and 17..20.
        for (rows, length) in [(0..17, 16.0), (17..20, 4.0)] {
            let bound = 5.0 / (length * 500.0f32).sqrt();
            let moved: Vec<f32> =
                found[rows.start * hidden..rows.end * hidden].iter().map(|x| x - 3.0).collect();
            let most = moved.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            assert!(most <= bound * 1.001 && most > 0.99 * bound, "{most} {bound}");
            let mean = moved.iter().sum::<f32>() / moved.len() as f32;
            let variance = moved.iter().map(|x| x * x).sum::<f32>() / moved.len() as f32;
            assert!(mean.abs() < 0.06 * bound && (variance / (bound * bound / 3.0) - 1.0).abs() < 0.1);
        }
    }
}
