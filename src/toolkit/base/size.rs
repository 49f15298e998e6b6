//! How much memory the weights of a base occupy.

use super::Base;

impl Base {
    /// Returns the bytes that its weights occupy in memory: the mapped file, or the copies that are stored in another
    /// type.
    pub fn bytes(&self) -> usize {
        match self.converted_bytes() {
            0 => self.mapped_bytes(),
            // Embedding, head and norms stay those of the file.
            converted if self.four_bit && self.dtype.is_none() => {
                let left = 1.0 - self.quantised() as f64 / self.numbers().max(1) as f64;
                converted + (self.mapped_bytes() as f64 * left) as usize
            }
            // The file's pages are given back once they are read.
            converted => converted,
        }
    }

    fn mapped_bytes(&self) -> usize {
        let stored = |name: &String| self.source.stored(name).map_or(0, |tensor| tensor.bytes.len());
        self.names().iter().map(stored).sum()
    }

    /// The tensors that are computed with.
    fn names(&self) -> Vec<String> {
        let mut names = self.source.names();
        names.retain(|name| !self.spec.elsewhere.iter().any(|prefix| name.starts_with(prefix)));
        names
    }

    /// Numbers of all tensors.
    fn numbers(&self) -> usize {
        let numbers =
            |name: &String| self.source.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
        self.names().iter().map(numbers).sum()
    }

    /// Numbers of the projections of the blocks, which are what is quantised.
    fn quantised(&self) -> usize {
        let all = self.spec.linears().map(|linear| linear.inputs * linear.outputs).sum::<usize>();
        all.min(self.numbers())
    }

    /// Bytes of the weights that are stored as another type than in the file.
    pub fn converted_bytes(&self) -> usize {
        if self.four_bit {
            // A block of 64 numbers has 36 bytes.
            let (all, quantised) = (self.numbers(), self.quantised());
            return quantised * 36 / 64 + self.dtype.map_or(0, |dtype| (all - quantised) * dtype.size());
        }
        self.dtype.map_or(0, |dtype| {
            let all = self.numbers() * dtype.size();
            // The same type is not converted.
            if all == self.mapped_bytes() { 0 } else { all }
        })
    }
}
