//! `lora_dropout`: randomly drops features of the adapter's input.

use crate::error::Result;
use crate::ops::Tensor;
use crate::ops::host;
use crate::random::Stream;

/// Dropout at one step. Its masks depend only on the stream, the module's name and the row, so recomputation and a
/// resumed run see the same masks, and adding or removing other modules changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that a feature is dropped.
    pub probability: f32,
    /// The stream of this step (and micro-batch).
    pub stream: Stream,
}

impl Dropout {
    /// Returns the stream of a module's masks; its children are the streams of the rows.
    pub fn stream_of(&self, module: &str) -> Stream {
        self.stream.named(module)
    }

    /// Returns the input with some features dropped and the rest scaled by 1/(1 − p), and the factors; both are
    /// `[T, in]`.
    ///
    /// # Errors
    /// Never: the factors have the input's shape.
    pub fn mask(&self, x: &Tensor, module: &str) -> Result<(Tensor, Tensor)> {
        let (rows, width) = x.shape();
        let keep = 1.0 / (1.0 - self.probability);
        let stream = self.stream_of(module);
        let factors = host::build_rows(rows, width, |row, out| {
            let stream = stream.child(row as u64);
            for (i, factor) in out.iter_mut().enumerate() {
                *factor = if stream.uniform(i as u64) < self.probability { 0.0 } else { keep };
            }
        });
        let factors = Tensor::new(factors, (rows, width))?;
        Ok((x.times(&factors)?, factors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_modules_and_the_rows() {
        let dropout = Dropout { probability: 0.25, stream: Stream::new(7, "dropout") };
        let x = Tensor::new(vec![3.0; 40 * 50], (40, 50)).unwrap();
        let (masked, factors) = dropout.mask(&x, "a").unwrap();
        let numbers = |t: &Tensor| t.numbers().to_vec();
        let (masked, factors) = (numbers(&masked), numbers(&factors));
        assert!(masked.iter().zip(&factors).all(|(m, f)| *m == 3.0 * f));
        assert!(factors.iter().all(|f| *f == 0.0 || *f == 1.0 / 0.75));
        // A quarter of 2000 draws is dropped; the standard error is 1 %.
        let dropped = factors.iter().filter(|f| **f == 0.0).count();
        assert!((400..600).contains(&dropped), "{dropped}");
        assert_eq!(factors, numbers(&dropout.mask(&x, "a").unwrap().1));
        assert_ne!(factors, numbers(&dropout.mask(&x, "b").unwrap().1));
        let first = Tensor::new(vec![3.0; 3 * 50], (3, 50)).unwrap();
        assert_eq!(factors[..150], numbers(&dropout.mask(&first, "a").unwrap().1));
    }
}
