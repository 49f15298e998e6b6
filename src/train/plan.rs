//! Estimates what a run will take before it starts: `train --dry-run`.

use crate::data::Dataset;
use crate::model::block::Saved;
use crate::model::spec::DecoderSpec;

/// Token counts of the data, packed and as one sequence per completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Packed rows of all examples.
    pub packed: usize,
    /// Tokens of prompt + completion, summed over all completions.
    pub unpacked: usize,
    /// The maximum number of packed rows in a micro-batch. Its mismatched sequences, which are computed before it, have the same
    /// prompts and completions, so that they have as many rows or fewer.
    pub largest_batch: usize,
    /// Scored tokens of the longest examples, as many as a micro-batch holds.
    pub largest_scored: usize,
    /// Micro-batches into which the batch of the longest examples is cut.
    pub parts: usize,
}

impl Tokens {
    /// Counts tokens. A micro-batch holds `batch` examples and, if `most` is given, at most that many packed rows.
    pub fn of(examples: &Dataset, batch: usize, most: Option<usize>) -> Self {
        let sizes = examples.entries().map(|entry| (entry.packed(), entry.unpacked(), entry.scored()));
        Self::counted(sizes, batch, most)
    }

    /// The same of examples of which only (packed rows, unpacked tokens, scored tokens) are known.
    pub fn counted(
        sizes: impl Iterator<Item = (usize, usize, usize)>,
        batch: usize,
        most: Option<usize>,
    ) -> Self {
        let (mut rows, mut scored, mut unpacked) = (Vec::new(), Vec::new(), 0);
        for (packed, separate, targets) in sizes {
            rows.push(packed);
            scored.push(targets);
            unpacked += separate;
        }
        rows.sort_unstable_by(|a, b| b.cmp(a));
        scored.sort_unstable_by(|a, b| b.cmp(a));
        let longest = rows.first().copied().unwrap_or(0);
        let together = rows.iter().take(batch).sum::<usize>();
        Self {
            packed: rows.iter().sum(),
            unpacked,
            largest_batch: most.map_or(together, |most| together.min(most.max(longest))),
            largest_scored: scored.iter().take(batch).sum(),
            parts: most.map_or(1, |most| together.div_ceil(most.max(1)).clamp(1, batch.max(1))),
        }
    }

    /// Returns the share of the unpacked tokens that is saved by sharing prompts.
    pub fn saved(&self) -> f64 {
        1.0 - self.packed as f64 / self.unpacked.max(1) as f64
    }
}

/// Peak resident bytes of a run, by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The mapped (or converted) weights.
    pub weights: usize,
    /// Activations that the forward pass keeps for the backward pass.
    pub activations: usize,
    /// Buffers of the active block and the head.
    pub working: usize,
    /// The adapter: its values, gradient and the optimizer's state.
    pub adapter: usize,
    /// Strings of the tokenizer: the tokens of its vocabulary, and the parts of its merges.
    pub strings: usize,
}

/// The program itself.
const PROGRAM: usize = 40 << 20;

/// Bytes that stay with the process for each string of a tokenizer, and that reading it takes. Measured at 1.3 million strings
/// (Gemma 3) and 100,000; what reading frees in small pieces is not used again for activations.
const KEPT_OF_STRING: usize = 300;
const READ_OF_STRING: usize = 520;

impl Memory {
    /// Estimates the peak of a step over `rows` packed rows, of which `scored` are scored. The optimizer keeps `state`
    /// bytes for each of the `trained` parameters.
    pub fn expect(
        spec: &DecoderSpec,
        weights: usize,
        (trained, state): (usize, usize),
        rows: usize,
        scored: usize,
        recompute: bool,
    ) -> Self {
        let kept: Vec<usize> = spec.layers.iter().map(|layer| Saved::features(layer, spec.hidden)).collect();
        let one = kept.iter().copied().max().unwrap_or(0);
        let features = if recompute { spec.layers.len() * spec.hidden + one } else { kept.iter().sum() };
        let widest = spec.linears().map(|l| l.inputs.max(l.outputs)).max().unwrap_or(0);
        // Memory freed by one block's backward pass does not fit every allocation of the next one: about one buffer as
        // wide as the widest layer stays unused for each block (`tests/benches/expected_memory.py`).
        let unused = if recompute { 1 } else { spec.layers.len() } * widest;
        // A block's backward pass holds a handful of gradients as wide as its widest layer besides the packed operand.
        // The head holds a block of logits and, for each scored row, its state, slope and gradient.
        let working = 4
            * (rows * (6 * widest + 4 * spec.hidden + unused)
                + scored.min(1024) * 4096
                + 4 * scored * spec.hidden);
        Self {
            weights,
            activations: 4 * rows * features,
            working,
            adapter: (8 + state) * trained,
            strings: 0,
        }
    }

    /// Bytes that the tokenizer keeps while the run trains.
    pub fn tokenizer(&self) -> usize {
        KEPT_OF_STRING * self.strings
    }

    /// Returns the peak: of training, which takes all parts and the program itself, or of reading the tokenizer, which comes before
    /// the weights are touched.
    pub fn total(&self) -> usize {
        self.beside(0)
    }

    /// The same without so many bytes of mapped weights.
    pub fn beside(&self, mapped: usize) -> usize {
        let weights = self.weights.saturating_sub(mapped);
        let training = weights + self.activations + self.working + self.adapter + self.tokenizer();
        training.max(READ_OF_STRING * self.strings) + PROGRAM
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Kind, Origin, PackedBatch};

    fn example(prompt: usize, completions: [usize; 2]) -> Example {
        let completions = completions.map(|n| vec![1; n]).to_vec();
        Example { prompt: vec![0; prompt], completions, kind: Kind::PAIR, origin: Origin::new("x", 1) }
    }

    #[test]
    fn the_peak_is_that_of_training_or_of_reading_the_tokenizer() {
        let small =
            Memory { weights: 5_000_000, activations: 2_000_000, working: 0, adapter: 0, strings: 1_000_000 };
        assert_eq!(small.total(), 520_000_000 + PROGRAM);
        assert_eq!(small.beside(5_000_000), small.total(), "the weights are not read by then");
        let large = Memory { activations: 900_000_000, ..small };
        assert_eq!(large.total(), 5_000_000 + 900_000_000 + 300_000_000 + PROGRAM);
        assert_eq!(large.beside(5_000_000), large.total() - 5_000_000);
    }

    #[test]
    fn tokens_are_those_of_the_packing() {
        let all = [example(10, [3, 5]), example(4, [2, 2]), example(30, [1, 1])];
        for e in &all {
            assert_eq!(e.packed(), PackedBatch::new(&[e]).tokens.len());
        }
        let all = Dataset::from(all.to_vec());
        let tokens = Tokens::of(&all, 2, None);
        // 10+2+4, 4+1+1, 30+0+0 rows; 13+15, 6+6, 31+31 tokens.
        assert_eq!((tokens.packed, tokens.unpacked, tokens.largest_batch), (52, 102, 46));
        assert_eq!(Tokens::of(&all, 2, Some(20)).largest_batch, 30);
        assert_eq!(Tokens::of(&all, 2, Some(40)).largest_batch, 40);
        assert_eq!([None, Some(20), Some(40)].map(|most| Tokens::of(&all, 2, most).parts), [1, 2, 2]);
        assert!((tokens.saved() - (1.0 - 52.0 / 102.0)).abs() < 1e-12);
    }
}
