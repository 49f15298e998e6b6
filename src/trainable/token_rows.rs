//! Trained rows of the token embedding: PEFT's `trainable_token_indices`. The rows of some tokens are copies of the base's,
//! which the policy uses instead of them. If the head is tied to the embedding, it uses them too, as in PEFT.
//!
//! PEFT calls the tensor `trainable_tokens_delta`; it holds the rows themselves, not differences.

use std::ops::Range;

use super::store::Shape;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;

/// Suffix that PEFT appends to the embedding's path for the rows `[tokens, hidden]`.
pub const ROWS: &str = "token_adapter.trainable_tokens_delta";

/// Trained rows of an embedding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRows {
    /// The embedding's path in the adapter file, without `base_model.model.`.
    pub module: String,
    /// The tokens, in the order of the file.
    pub tokens: Vec<u32>,
    /// The number of columns.
    pub hidden: usize,
    /// Start of the rows in the flat buffer.
    pub(super) offset: usize,
}

impl TokenRows {
    /// Creates the rows of `tokens`.
    pub fn new(module: String, tokens: Vec<u32>, hidden: usize) -> Self {
        Self { module, tokens, hidden, offset: 0 }
    }

    /// The range of the rows `[tokens, hidden]` in the flat buffer of its set.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.tokens.len() * self.hidden
    }

    /// The range of the row with this index in [`TokenRows::tokens`].
    pub fn row(&self, index: usize) -> Range<usize> {
        let start = self.offset + index * self.hidden;
        start..start + self.hidden
    }

    pub(super) fn identity(&self) -> String {
        format!("rows {} {:?};", self.module, self.tokens)
    }

    pub(super) fn tensors(&self) -> Vec<(&'static str, Shape)> {
        vec![(ROWS, vec![self.tokens.len(), self.hidden])]
    }

    /// Copies the embedding's rows.
    pub(super) fn initialise(&self, values: &mut [f32], from: Option<&Linear>) -> Result<()> {
        let module = &self.module;
        let from = from.ok_or_else(|| {
            Error::Adapter(format!("{module}: its trained rows start as the base's, which were not given"))
        })?;
        if let Some(token) = self.tokens.iter().find(|token| **token as usize >= from.outputs()) {
            return Err(Error::Config(format!(
                "lora.trainable_token_indices names token {token}, and {module} has {} rows; name tokens of the base",
                from.outputs()
            )));
        }
        if from.inputs() != self.hidden {
            return Err(Error::Adapter(format!(
                "rows of {module} are trained with {} columns, and the base has {}",
                self.hidden,
                from.inputs()
            )));
        }
        for (index, token) in self.tokens.iter().enumerate() {
            from.output_row(*token as usize, &mut values[self.row(index)]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Adapter, Adapters};
    use super::*;
    use crate::ops::testing::noise_of;
    use crate::weights::FrozenWeight;

    #[test]
    fn rows_start_as_the_embeddings_in_the_order_named() {
        let table = Linear::new(FrozenWeight::from_f32(noise_of(15, 1), &[5, 3]).unwrap(), false, None);
        let of = |tokens: &[u32]| {
            Adapters::initialised_on([TokenRows::new("e".into(), tokens.to_vec(), 3)], 1, |_| Some(&table))
        };
        let set = of(&[4, 1]).unwrap();
        let all = noise_of(15, 1);
        assert_eq!(set.values(), [&all[12..15], &all[3..6]].concat());
        assert_eq!(set.store().entries()[0].name, format!("e.{ROWS}"));
        let Some(Adapter::TokenRows(rows)) = set.find("e") else { panic!() };
        assert_eq!((rows.row(1), rows.range()), (3..6, 0..6));
        assert!(of(&[5]).unwrap_err().to_string().contains("token 5"));
    }
}
