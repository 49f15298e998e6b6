//! The scalar head of a reward or value model: PEFT's trained copy of `score`, a linear module `[1, hidden]` without bias
//! that a causal model does not have (transformers' `GenericForSequenceClassification`).

use std::ops::Range;

use super::heads::SCORE;
use super::{Adapter, Adapters, Whole};
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;
use crate::random::Stream;
use crate::weights::FrozenWeight;

/// The standard deviation of new weights: transformers' `initializer_range`, of most models.
const DEVIATION: f64 = 0.02;

impl Adapters {
    /// Returns the weight `[hidden]` of the scalar head, and its range among all values; `None` if there is none.
    pub fn score(&self) -> Option<(&[f32], Range<usize>)> {
        match self.find(SCORE)? {
            Adapter::Whole(head) => Some((head.weight(self.values()), head.weight_range())),
            _ => None,
        }
    }

    /// Returns the same set with a new scalar head for `hidden` features, drawn from the normal distribution.
    ///
    /// # Errors
    /// If there is a module of this name.
    pub fn with_score(&self, hidden: usize, seed: u64) -> Result<Self> {
        let head = Whole::new(SCORE.into(), (1, hidden), false);
        let adapters = self.iter().cloned().chain([Adapter::Whole(head)]);
        let mut set = Self::zeros(adapters)?;
        let drawn = Linear::new(FrozenWeight::from_f32(normal(hidden, seed), &[1, hidden])?, false, None);
        let mut values = set.values().to_vec();
        for to in set.iter() {
            match self.find(to.module()) {
                Some(from) => values[to.range()].copy_from_slice(&self.values()[from.range()]),
                None => to.clone().initialise(seed, &mut values, Some(&drawn))?,
            }
        }
        set.update(|all| all.copy_from_slice(&values));
        Ok(set)
    }

    /// Refuses a scalar head.
    ///
    /// # Errors
    /// [`Error::Adapter`], which names what needs an adapter of a causal model.
    pub fn refuse_score(&self, who: &str) -> Result<()> {
        match self.score() {
            None => Ok(()),
            Some(_) => Err(Error::Adapter(format!(
                "the adapter is a reward model (task_type SEQ_CLS), and {who} needs one that predicts tokens; score and eval \
                 take reward models"
            ))),
        }
    }
}

/// Numbers of the normal distribution with the deviation of new weights (Box and Muller 1958).
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, SCORE);
    let draw = |i: u64| {
        // In (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(stream.uniform(2 * i))).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(stream.uniform(2 * i + 1));
        (DEVIATION * radius * angle.cos()) as f32
    };
    (0..count as u64).map(draw).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Lora, Module};
    use super::*;

    fn set() -> Adapters {
        let lora = |name: &str| Lora::new(Module { name: name.into(), inputs: 3, outputs: 4 }, 2, 6.0, 3.0);
        // Modules before and behind the head in their order.
        Adapters::initialised([lora("a"), lora("z")], 1).unwrap()
    }

    #[test]
    fn a_head_is_added_and_all_else_stays() {
        let (plain, head) = (set(), set().with_score(500, 7).unwrap());
        for module in ["a", "z"] {
            let of = |set: &Adapters| set.values()[set.find_lora(module).unwrap().range()].to_vec();
            assert_eq!(of(&plain), of(&head));
        }
        let (weight, range) = head.score().unwrap();
        assert_eq!((weight.len(), range.len(), head.len()), (500, 500, 3));
        let mean = weight.iter().sum::<f32>() / 500.0;
        let deviation = (weight.iter().map(|x| x * x).sum::<f32>() / 500.0).sqrt();
        // Standard errors: 0.0009 and 0.0006.
        assert!(mean.abs() < 0.004 && (deviation - 0.02).abs() < 0.0025, "{mean} {deviation}");
        assert!(plain.score().is_none() && head.with_score(500, 7).is_err());
        assert_eq!(weight, set().with_score(500, 7).unwrap().score().unwrap().0);
        assert!(plain.refuse_score("it").is_ok() && head.refuse_score("it").is_err());
    }
}
