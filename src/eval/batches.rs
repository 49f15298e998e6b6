//! The batches in which examples are scored.

use crate::data::{Dataset, Example, PackedBatch};
use crate::error::Result;
use crate::objective::Needs;

/// Examples, cut into batches.
pub(crate) struct Batches<'a> {
    examples: &'a Dataset,
    size: usize,
    needs: Needs,
}

impl<'a> Batches<'a> {
    /// Batches of `size` examples, for an objective with these needs.
    pub fn new(examples: &'a Dataset, size: usize, needs: Needs) -> Self {
        Self { examples, size: size.max(1), needs }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.examples.len().div_ceil(self.size)
    }

    /// The index of the first example of a batch.
    pub fn first(&self, index: usize) -> usize {
        index * self.size
    }

    /// The packed tokens of each batch.
    pub fn tokens(&self) -> Vec<usize> {
        let sizes: Vec<usize> = self.examples.entries().map(|entry| entry.packed()).collect();
        sizes.chunks(self.size).map(|sizes| sizes.iter().sum()).collect()
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// If its examples cannot be read.
    pub fn batch(&self, index: usize) -> Result<(Vec<Example>, PackedBatch)> {
        let first = self.first(index);
        let indices: Vec<usize> = (first..self.examples.len().min(first + self.size)).collect();
        let examples = self.examples.gather(&indices)?;
        let all: Vec<&Example> = examples.iter().collect();
        let packed = PackedBatch::for_objective(&all, self.needs, self.examples.limit());
        Ok((examples, packed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, Origin, Truncation};

    #[test]
    fn a_mismatched_completion_is_cut_at_the_limit_and_not_at_the_longest_record() {
        let judged = |prompt: usize, completion: usize| Example {
            prompt: vec![1; prompt],
            completions: vec![vec![2; completion]],
            kind: Kind::Judged { desirable: true },
            origin: Origin::new("t", 1),
        };
        let set: Dataset = vec![judged(6, 1), judged(1, 6)].into();
        let scored = |set: &Dataset| {
            let needs = Needs { mismatched: true, ..Needs::PAIRS };
            let (_, batch) = Batches::new(set, 2, needs).batch(0).unwrap();
            batch.mismatched.unwrap().scored.iter().map(ExactSizeIterator::len).collect::<Vec<_>>()
        };
        assert_eq!(scored(&set), [6, 1]);
        let limit = Truncation { max_length: Some(10), ..Truncation::default() };
        assert_eq!(scored(&set.cut_to(limit)), [4, 1]);
    }
}
