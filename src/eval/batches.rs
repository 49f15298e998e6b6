//! The batches in which examples are scored.

use crate::data::{Dataset, Example, PackedBatch};
use crate::error::Result;
use crate::objective::Needs;

/// Examples, cut into batches.
pub(crate) struct Batches<'a> {
    examples: &'a Dataset,
    size: usize,
    needs: Needs,
    longest: usize,
}

impl<'a> Batches<'a> {
    /// Batches of `size` examples, for an objective with these needs.
    pub fn new(examples: &'a Dataset, size: usize, needs: Needs) -> Self {
        Self { examples, size: size.max(1), needs, longest: examples.longest() }
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
        let packed =
            PackedBatch::for_objective(&examples.iter().collect::<Vec<_>>(), self.needs, self.longest);
        Ok((examples, packed))
    }
}
