//! A module that is trained whole: PEFT's `modules_to_save`. Its weight `[rows, columns]`, and its bias if it has one, are
//! copies of the base's, which the policy uses instead of them; the reference keeps the base's.
//!
//! The module need not be a linear one inside a block: it is the token embedding, the language-model head, or a head that
//! the base does not have, such as a reward model's `score`. Nothing here computes with it. Whoever reads that tensor
//! of the base asks [`Policy::applied`](super::Policy::applied) for the module first, takes [`Whole::weight`] of the last
//! answer instead, and adds the gradient at [`Whole::weight_range`] of the trained set's buffer.
//!
//! Its numbers start as the weight that [`Adapters::initialised_on`](super::Adapters::initialised_on) is given for the
//! module; for a head that the base lacks, that is one that the caller has drawn.

use std::ops::Range;

use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;

/// Suffix that PEFT appends to the module's path for the weight `[rows, columns]`.
pub const WEIGHT: &str = "weight";
/// Suffix that PEFT appends to the module's path for the bias `[rows]`.
pub const BIAS: &str = "bias";

/// A module that is trained whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Module path in the adapter file, without `base_model.model.`.
    pub module: String,
    /// Rows of the weight: outputs of a head, tokens of an embedding.
    pub rows: usize,
    /// Columns of the weight.
    pub columns: usize,
    /// Whether there is a bias `[rows]`.
    pub bias: bool,
    /// Start of the weight in the flat buffer; the bias follows it.
    pub(super) offset: usize,
}

impl Whole {
    /// Creates a whole module of this shape.
    pub fn new(module: String, (rows, columns): (usize, usize), bias: bool) -> Self {
        Self { module, rows, columns, bias, offset: 0 }
    }

    /// The range of the weight `[rows, columns]` in the flat buffer of its set.
    pub fn weight_range(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.columns
    }

    /// The range of the bias `[rows]` in the flat buffer of its set; empty if there is none.
    pub fn bias_range(&self) -> Range<usize> {
        let start = self.weight_range().end;
        start..start + if self.bias { self.rows } else { 0 }
    }

    /// The weight `[rows, columns]`, of its set's values.
    pub fn weight<'a>(&self, values: &'a [f32]) -> &'a [f32] {
        &values[self.weight_range()]
    }

    /// The bias `[rows]`, of its set's values.
    pub fn bias<'a>(&self, values: &'a [f32]) -> Option<&'a [f32]> {
        self.bias.then(|| &values[self.bias_range()])
    }

    pub(super) fn identity(&self) -> String {
        format!("whole {} {} {};", self.module, self.rows, self.columns)
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        let mut tensors = vec![(WEIGHT, vec![self.rows, self.columns])];
        tensors.extend(self.bias.then(|| (BIAS, vec![self.rows])));
        tensors
    }

    /// Copies the module's weight and bias.
    pub(super) fn initialise(&self, values: &mut [f32], from: Option<&Linear>) -> Result<()> {
        let Self { module, rows, columns, bias, .. } = self;
        let from = from.ok_or_else(|| {
            Error::Adapter(format!("{module} starts as the base's weight, which was not given"))
        })?;
        if (from.outputs(), from.inputs(), from.bias().is_some()) != (*rows, *columns, *bias) {
            return Err(Error::Adapter(format!(
                "{module} is trained as [{rows}, {columns}], but the base has it as [{}, {}]",
                from.outputs(),
                from.inputs()
            )));
        }
        let weight = &mut values[self.weight_range()];
        for (row, out) in weight.chunks_exact_mut((*columns).max(1)).enumerate() {
            from.output_row(row, out);
        }
        if let Some(bias) = from.bias() {
            values[self.bias_range()].copy_from_slice(bias);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Adapter, Adapters, Lora, Module, Policy};
    use super::*;
    use crate::ops::testing::noise_of;
    use crate::weights::FrozenWeight;

    #[test]
    fn it_starts_as_the_module_and_stands_beside_low_rank_matrices() {
        let bias = noise_of(4, 2);
        let head =
            Linear::new(FrozenWeight::from_f32(noise_of(12, 1), &[4, 3]).unwrap(), false, Some(bias.clone()));
        let lora = Lora::new(Module { name: "a".into(), inputs: 3, outputs: 4 }, 2, 4.0, 2.0);
        let both = || -> Vec<Adapter> {
            vec![Whole::new("lm_head".into(), (4, 3), true).into(), lora.clone().into()]
        };
        let set = Adapters::initialised_on(both(), 1, |name| (name == "lm_head").then_some(&head)).unwrap();
        let names: Vec<&str> = set.store().entries().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a.lora_A.weight", "a.lora_B.weight", "lm_head.weight", "lm_head.bias"]);
        let Some(Adapter::Whole(whole)) = set.find("lm_head") else { panic!() };
        assert_eq!(whole.weight(set.values()), noise_of(12, 1));
        assert_eq!(whole.bias(set.values()), Some(&bias[..]));
        assert!(Adapters::initialised(both(), 1).is_err());
        let policy = Policy::of(set);
        assert_eq!(policy.applied("lm_head", true).len(), 1);
        assert!(policy.applied("lm_head", false).is_empty(), "the reference has the base's");
    }

    #[test]
    fn another_shape_than_the_bases_is_refused() {
        let head = Linear::new(FrozenWeight::from_f32(noise_of(12, 1), &[4, 3]).unwrap(), false, None);
        for (shape, bias) in [((5, 3), false), ((4, 3), true)] {
            let whole = Whole::new("lm_head".into(), shape, bias);
            assert!(Adapters::initialised_on([whole], 1, |_| Some(&head)).is_err());
        }
    }
}
