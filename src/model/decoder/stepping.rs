//! Decoding: tokens are appended to cached sequences, one or many at once.

use std::borrow::Cow;

use super::Decoder;
use crate::error::{Error, Result};
use crate::model::attention::Rows;
use crate::model::cache::Cache;
use crate::model::layer_cache::LayerCache;
use crate::model::lengths;
use crate::model::pass::{Context, Pass};
use crate::model::prefixed;
use crate::ops::awake::awake;
use crate::ops::token_logps;
use crate::ops::tree_attention::{Span, TreeSpans};
use crate::trainable::Policy;

/// The new rows of all sequences, one sequence after the other.
#[derive(Default)]
struct Layout {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    trees: Vec<TreeSpans>,
    /// The last new row of each sequence.
    last: Vec<u32>,
}

impl Layout {
    /// Appends the new rows of a sequence of which `seen` rows are cached, with those of a prefix.
    fn push(&mut self, seen: usize, tokens: &[u32]) {
        let (first, end) = (self.tokens.len(), self.tokens.len() + tokens.len());
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((seen..seen + tokens.len()).map(|position| position as u32));
        self.last.push((end - 1) as u32);
        let span = Span { queries: first..end, prefix: 0..seen, own: seen..seen + tokens.len() };
        self.trees.push(TreeSpans { rows: first..end, spans: vec![span] });
    }
}

impl Decoder {
    /// Creates a cache for [`Decoder::step`].
    pub fn new_cache(&self) -> Cache {
        Cache::new(self.blocks.len())
    }

    /// Appends tokens to a cached sequence and returns the logits `[vocab]` after the last of them.
    ///
    /// # Errors
    /// If there are no tokens, or they do not fit the model.
    pub fn step(&self, tokens: &[u32], cache: &mut Cache, policy: &Policy, pass: Pass) -> Result<Vec<f32>> {
        self.step_many(&mut [cache], &[tokens], policy, pass)
    }

    /// Appends tokens to several cached sequences, each to its own, and returns the logits `[caches.len(), vocab]` after
    /// the last of each. The bits of a row of logits are those of [`Decoder::step`]: they depend on neither the number of
    /// sequences nor the other sequences. On a device the sequences are computed one after the other (see
    /// [`Decoder::step_all`]).
    ///
    /// # Errors
    /// As [`Decoder::step`]; a sequence is not usable after an error.
    pub fn step_many(
        &self,
        caches: &mut [&mut Cache],
        tokens: &[&[u32]],
        policy: &Policy,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        if caches.len() != tokens.len() || tokens.iter().any(|tokens| tokens.is_empty()) {
            return Err(Error::Model(
                "a step of generation needs at least one token for each sequence".into(),
            ));
        }
        let mut all = Vec::with_capacity(tokens.len());
        for (cache, tokens) in caches.iter_mut().zip(tokens) {
            all.push(self.prepared(cache, tokens));
        }
        if !self.is_on_device() {
            return awake(|| self.host_step(caches, &all, policy, pass));
        }
        let mut logits = Vec::new();
        for (cache, tokens) in caches.iter_mut().zip(&all) {
            logits.extend(self.device_step(tokens, cache, policy, pass)?);
        }
        Ok(logits)
    }

    /// Returns the tokens that a step over a sequence computes. When a sequence exceeds the length at which longrope
    /// changes its frequencies, all keys are recomputed, as in transformers.
    fn prepared<'a>(&self, cache: &mut Cache, tokens: &'a [u32]) -> Cow<'a, [u32]> {
        let rotations = &self.spec.rotations;
        let tokens = if lengths::crosses(rotations, cache.seen, cache.seen + tokens.len()) {
            Cow::Owned(cache.restart(tokens))
        } else {
            Cow::Borrowed(tokens)
        };
        if rotations.iter().any(|rotation| rotation.by_length.is_some()) {
            cache.tokens.extend_from_slice(&tokens);
        }
        tokens
    }

    fn host_step(
        &self,
        caches: &mut [&mut Cache],
        tokens: &[Cow<[u32]>],
        policy: &Policy,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        // The keys of a prefix come first, and the positions of the tokens begin behind them.
        let prefix = prefixed::length(&self.spec, policy, pass)?;
        let mut layout = Layout::default();
        for (cache, tokens) in caches.iter().zip(tokens) {
            layout.push(prefix + cache.seen, tokens);
        }
        let Layout { tokens: new, positions, trees, last } = &layout;
        let rotations = self.rotations(positions, trees, 0);
        let rows = Rows { trees, rotations: &rotations, prefix, wanted: None };
        let context = Context { policy, pass, dropout: None, observer: None };
        let mut x = self.embed(new, positions, &context)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let mut layers: Vec<&mut LayerCache> =
                caches.iter_mut().map(|cache| &mut cache.layers[i]).collect();
            x = block.forward(&x, &self.rows_of(i, rows, last), &context, Some(&mut layers))?.0;
        }
        for (cache, tokens) in caches.iter_mut().zip(tokens) {
            cache.seen += tokens.len();
        }
        let last = self.final_norm.forward(&x)?;
        let head = self.head_of(&context)?;
        Ok(token_logps::logits(&last, &head, self.spec.logits)?.into_numbers())
    }

    /// Returns a copy of a sequence, which continues by itself. On a device the keys are computed again if the cache knows
    /// its tokens.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn fork(&self, cache: &Cache, policy: &Policy, pass: Pass) -> Result<Cache> {
        if !self.is_on_device() {
            return Ok(cache.copied());
        }
        let mut copy = self.new_cache();
        self.step(&cache.tokens, &mut copy, policy, pass)?;
        Ok(copy)
    }
}
