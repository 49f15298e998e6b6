//! The decoder's passes on a device. They take the same arguments, with the same checks, and return the same results.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};

use super::layout::{per_token, spans, sums};
use super::{Decoder, Tape, Training};
use crate::data::PackedBatch;
use crate::device::measure;
use crate::device::{Backend, Buffer, Description};
use crate::error::{Error, Result};
use crate::model::cache::Cache;
use crate::model::engine::{self, Adapters, DeviceCache, DeviceTape, Engine, Next, Plan, Step, Update};
use crate::model::pass::Pass;
use crate::ops::tree_attention::TreeSpans;
use crate::trainable::Policy;

impl Decoder {
    /// Like [`Decoder::place_on`], in f32 whatever the storage type of the weights: as exact as the processor, but
    /// slow.
    pub fn place_exactly_on(&mut self, device: Option<Arc<dyn Backend>>) {
        self.place_on(device);
        self.exact = true;
    }

    /// Selects the device that computes from now on; `None` selects the processor.
    pub fn place_on(&mut self, device: Option<Arc<dyn Backend>>) {
        self.backend = device;
        self.exact = false;
        *self.engine.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the decoder computes on a device.
    pub fn is_on_device(&self) -> bool {
        self.backend.is_some()
    }

    /// The device that the decoder computes on, if it is not the processor.
    pub fn backend(&self) -> Option<&Arc<dyn Backend>> {
        self.backend.as_ref()
    }

    /// A description of the device and its libraries, and the storage type of activations.
    pub fn device_description(&self) -> Option<(Description, &'static str)> {
        self.backend.as_ref().map(|device| (device.describe(), self.base().kind().name()))
    }

    fn base(&self) -> engine::Base<'_> {
        engine::Base {
            spec: &self.spec,
            embedding: &self.embedding,
            positions: self.positions.as_ref(),
            blocks: &self.blocks,
            final_norm: &self.final_norm,
            head: self.head(),
            exact: self.exact,
        }
    }

    /// Runs `work` on the engine, which is first brought up to date with the adapters.
    pub(super) fn on_device<T>(
        &self,
        policy: &Policy,
        work: impl FnOnce(&mut Engine) -> Result<T>,
    ) -> Result<T> {
        let device = self.backend.as_ref().ok_or_else(|| Error::Model("the model is on no device".into()))?;
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let adapters = Adapters::new(policy)?;
        if let Some(outdated) = engine.take_if(|engine| engine.is_outdated(&adapters))
            && outdated.is_ahead()
        {
            *engine = Some(outdated);
            return Err(Error::Model(
                "the device holds a trained adapter that was not fetched; fetch it before a pass with other adapters".into(),
            ));
        }
        if engine.is_none() {
            *engine = Some(Engine::new(device, &self.base(), &adapters)?);
        }
        match engine.as_mut() {
            Some(engine) => {
                engine.refresh(&adapters)?;
                work(engine)
            }
            None => Err(Error::Model("the model is on no device".into())),
        }
    }

    fn input<'a>(
        &self,
        batch: &'a PackedBatch,
        trees: &'a [TreeSpans],
        unread: usize,
    ) -> Result<engine::Input<'a>> {
        self.check_tokens(&batch.tokens, &batch.positions)?;
        Ok(engine::Input { tokens: &batch.tokens, positions: &batch.positions, trees, unread })
    }

    pub(super) fn device_logps(&self, batch: &PackedBatch, policy: &Policy, pass: Pass) -> Result<Vec<f64>> {
        let trees = spans(batch);
        let input = self.input(batch, &trees, 1)?;
        self.check_targets(&batch.scored_targets)?;
        let found = self.on_device(policy, |engine| {
            engine.logps(&input, &batch.scored_rows, &batch.scored_targets, pass)
        })?;
        Ok(sums(&found, batch))
    }

    pub(super) fn device_logits(
        &self,
        batch: &PackedBatch,
        rows: &[u32],
        policy: &Policy,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        let trees = spans(batch);
        let input = self.input(batch, &trees, 0)?;
        self.on_device(policy, |engine| engine.logits(&input, rows, pass))
    }

    pub(super) fn device_forward(
        &self,
        batch: &PackedBatch,
        policy: &Policy,
        training: Training,
    ) -> Result<(Vec<f64>, Tape)> {
        let trees = spans(batch);
        let input = self.input(batch, &trees, 1)?;
        self.check_targets(&batch.scored_targets)?;
        let scored = (batch.scored_rows.as_slice(), batch.scored_targets.as_slice());
        let how = (training.dropout, training.recompute);
        let (found, tape) = self.on_device(policy, |engine| engine.forward(&input, scored, how))?;
        Ok((sums(&found, batch), Tape::Device(Box::new(tape))))
    }

    /// Adds the gradient of a pass to the gradient on the device.
    pub(super) fn device_backward(
        &self,
        tape: DeviceTape,
        batch: &PackedBatch,
        policy: &Policy,
        weights: &[f64],
    ) -> Result<()> {
        let per_token = per_token(batch, weights);
        self.on_device(policy, |engine| engine.backward(tape, &per_token))
    }

    pub(super) fn device_step(
        &self,
        tokens: &[u32],
        cache: &mut Cache,
        policy: &Policy,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        let next = Next { sequence: 0, seen: cache.seen, tokens };
        let logits = self.step_all(&[next], &mut cache.on_device, policy, pass)?;
        cache.seen += tokens.len();
        Ok(logits)
    }

    /// The logits `[next.len(), vocab]` after the last token of each of several sequences, whose keys and values are in
    /// `cache`.
    ///
    /// # Errors
    /// If the model does not have a token or a position, or there is no device.
    pub fn step_all(
        &self,
        next: &[Next],
        cache: &mut DeviceCache,
        policy: &Policy,
        pass: Pass,
    ) -> Result<Vec<f32>> {
        for Next { seen, tokens, .. } in next {
            let positions: Vec<u32> = (*seen..seen + tokens.len()).map(|position| position as u32).collect();
            self.check_tokens(tokens, &positions)?;
        }
        self.on_device(policy, |engine| engine.step(next, cache, pass))
    }

    /// Copies the `rows` rows of sequence `from` of a cache to sequence `to`.
    ///
    /// # Errors
    /// If the device fails or runs out of memory, or there is none.
    pub fn copy_sequence(
        &self,
        cache: &mut DeviceCache,
        (from, to): (usize, usize),
        rows: usize,
        policy: &Policy,
    ) -> Result<()> {
        self.on_device(policy, |engine| engine.copy_sequence(cache, (from, to), rows))
    }

    /// Whether several sequences can be continued at once: only on a device, and only if keys do not depend on the
    /// final length.
    pub fn steps_together(&self) -> bool {
        self.is_on_device() && self.spec.rotations.iter().all(|rotation| rotation.by_length.is_none())
    }

    /// Clears the gradient on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn clear_device_gradient(&self, policy: &Policy) -> Result<()> {
        self.on_device(policy, |engine| {
            engine.clear_gradient();
            Ok(())
        })
    }

    /// Adds the gradient of `Σ_c weights[c]·logps[c]` to the gradient on the device.
    ///
    /// # Errors
    /// If the tape does not belong to the last pass on the device.
    pub fn add_device_gradient(
        &self,
        tape: Tape,
        batch: &PackedBatch,
        policy: &Policy,
        weights: &[f64],
    ) -> Result<()> {
        match tape {
            Tape::Device(tape) => self.device_backward(*tape, &self.divided(batch), policy, weights),
            Tape::Host(_) => Err(Error::Model("the tape was not recorded on a device".into())),
        }
    }

    /// The norm of the gradient on the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn device_gradient_norm(&self, policy: &Policy) -> Result<f64> {
        self.on_device(policy, Engine::gradient_norm)
    }

    /// Updates the trained adapter on the device along its gradient times `clip`. Its values on the host stay unchanged
    /// until [`Decoder::fetch`]. Returns whether all values are finite.
    ///
    /// # Errors
    /// If the device fails.
    pub fn device_update(&self, policy: &Policy, update: &Update, clip: f32) -> Result<bool> {
        self.on_device(policy, |engine| {
            engine.update(update, clip)?;
            Ok(engine.size()?.is_finite())
        })
    }

    /// Copies the trained adapter's values from the device, if there is one.
    ///
    /// # Errors
    /// If the device fails.
    pub fn fetch(&self, policy: &mut Policy) -> Result<()> {
        if self.backend.is_none() || !policy.is_adapted() {
            return Ok(());
        }
        let found = self.on_device(policy, |engine| engine.trained_values())?;
        policy.trained.update(|values| values.copy_from_slice(&found));
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engine.as_mut() {
            engine.fetched(policy.trained.version());
        }
        Ok(())
    }

    /// Returns the optimizer's moments from the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn device_moments(&self, policy: &Policy) -> Result<Vec<Vec<f32>>> {
        self.on_device(policy, |engine| engine.moments())
    }

    /// Copies moments to the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn set_device_moments(&self, policy: &Policy, moments: &[&[f32]]) -> Result<()> {
        self.on_device(policy, |engine| engine.set_moments(moments))
    }

    /// Returns the gradient from the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn device_gradient(&self, policy: &Policy) -> Result<Vec<f32>> {
        self.on_device(policy, |engine| engine.gradient_values())
    }

    /// Returns a copy of the gradient that stays on the device.
    ///
    /// # Errors
    /// If the device fails or runs out of memory.
    pub fn device_gradient_copy(&self, policy: &Policy) -> Result<Buffer> {
        self.on_device(policy, |engine| engine.gradient_copy())
    }

    /// Replaces the gradient on the device by what `fill` makes of zeros, with the layout of the trained adapter's values.
    ///
    /// # Errors
    /// If the device fails, or those of `fill`.
    pub fn give_device_gradient(
        &self,
        policy: &Policy,
        fill: impl FnOnce(&Buffer) -> Result<()>,
    ) -> Result<()> {
        self.on_device(policy, |engine| engine.give_gradient(fill))
    }

    /// Returns the trained adapter's values: those on the device, if there is one.
    ///
    /// # Errors
    /// If the device fails.
    pub fn newest_values<'a>(&self, policy: &'a Policy) -> Result<Cow<'a, [f32]>> {
        if self.backend.is_none() || !policy.is_adapted() {
            return Ok(Cow::Borrowed(policy.trained.values()));
        }
        self.on_device(policy, |engine| engine.trained_values()).map(Cow::Owned)
    }

    /// Plans the resources that a training step over `batch` would take on a device.
    ///
    /// # Errors
    /// If the weights cannot be read.
    pub fn plan(
        &self,
        batch: &PackedBatch,
        policy: &Policy,
        recompute: bool,
        moments: usize,
        rates: measure::Rates,
    ) -> Result<Plan> {
        let step = Step {
            positions: batch.positions.clone(),
            trees: spans(batch),
            scored: batch.scored_rows.clone(),
            recompute,
            moments,
        };
        engine::plan(&self.base(), policy, &step, rates)
    }
}
