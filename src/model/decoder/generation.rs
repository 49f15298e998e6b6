//! Generation: one sequence, token by token, with a cache.

use super::Decoder;
use crate::error::{Error, Result};
use crate::model::attention::Rows;
use crate::model::cache::Cache;
use crate::model::lengths;
use crate::model::pass::{Context, Pass};
use crate::model::prefixed;
use crate::ops::token_logps;
use crate::ops::tree_attention::{Span, TreeSpans};
use crate::trainable::Policy;

impl Decoder {
    /// Appends tokens to a cached sequence and returns the logits `[vocab]` after the last of them.
    ///
    /// # Errors
    /// If there are no tokens, or they do not fit the model.
    pub fn step(&self, tokens: &[u32], cache: &mut Cache, policy: &Policy, pass: Pass) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Error::Model("a step of generation needs at least one token".into()));
        }
        // When a sequence exceeds the length at which longrope changes its frequencies, all keys are recomputed, as in
        // transformers.
        if lengths::crosses(&self.spec.rotations, cache.seen, cache.seen + tokens.len()) {
            let all = cache.restart(tokens);
            return self.step(&all, cache, policy, pass);
        }
        if self.spec.rotations.iter().any(|rotation| rotation.by_length.is_some()) {
            cache.tokens.extend_from_slice(tokens);
        }
        if self.is_on_device() {
            return self.device_step(tokens, cache, policy, pass);
        }
        // The keys of a prefix come first, and the positions of the tokens begin behind them.
        let prefix = prefixed::length(&self.spec, policy, pass)?;
        let (seen, keys) = (prefix + cache.seen, prefix + cache.seen + tokens.len());
        let positions: Vec<u32> = (seen..keys).map(|p| p as u32).collect();
        let span = Span { queries: 0..tokens.len(), prefix: 0..seen, own: seen..keys };
        let trees = [TreeSpans { rows: 0..tokens.len(), spans: vec![span] }];
        let rotations = self.rotations(&positions, &trees, 0);
        let last = [tokens.len() as u32 - 1];
        let rows = Rows { trees: &trees, rotations: &rotations, prefix, wanted: None };
        let context = Context { policy, pass, dropout: None, observer: None };
        let mut x = self.embed(tokens, &positions, &context)?;
        for (i, (block, cache)) in self.blocks.iter().zip(&mut cache.layers).enumerate() {
            x = block.forward(&x, &self.rows_of(i, rows, &last), &context, Some(cache))?.0;
        }
        cache.seen += tokens.len();
        let last = self.final_norm.forward(&x)?;
        let head = self.head_of(&context)?;
        Ok(token_logps::logits(&last, &head, self.spec.logits)?.into_numbers())
    }

    /// Creates a cache for [`Decoder::step`].
    pub fn new_cache(&self) -> Cache {
        Cache::new(self.blocks.len())
    }
}
