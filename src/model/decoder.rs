//! The decoder. It computes the log-probs of a packed batch's completions, and turns their gradients into those of the
//! trained low-rank matrices.

mod aligned;
mod layout;
mod load;
mod on_device;
mod replaced;
mod scores;
mod stepping;
mod tables;

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use self::layout::{distinct, per_token, spans};
use self::replaced::Tables;
pub use self::scores::{Read, Readout};
use super::attention::Rows;
use super::block::{self, Block};
use super::engine::{DeviceTape, Engine};
use super::lengths;
use super::noise::Noise;
use super::norm::Norm;
use super::pass::{Context, Observer, Pass};
use super::prefixed;
use super::spec::DecoderSpec;
use crate::data::PackedBatch;
use crate::device::Backend;
use crate::error::{Error, Result};
use crate::ops::Tensor;
use crate::ops::frozen_linear::Linear;
use crate::ops::profile::timed;
use crate::ops::rope::Rotation;
use crate::ops::rows;
use crate::ops::token_logps::{self, Asked};
use crate::ops::tree_attention::TreeSpans;
use crate::trainable::{Dropout, Policy};
use crate::weights::FrozenWeight;

/// A frozen base. Its adapters are passed to every pass as a [`Policy`].
pub struct Decoder {
    spec: DecoderSpec,
    pub(super) embedding: FrozenWeight,
    pub(super) positions: Option<FrozenWeight>,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Norm,
    /// The embedding as a map, whose outputs are the tokens; the head, if the model ties them.
    table: Arc<Linear>,
    head: Arc<Linear>,
    /// What adapters replace of both.
    replaced: Tables,
    storage: String,
    /// The backend it computes on, if that is not the processor.
    backend: Option<Arc<dyn Backend>>,
    /// Whether activations on the backend are f32, whatever the type of the weights.
    pub(super) exact: bool,
    /// The engine of the backend, created at the first pass.
    engine: Mutex<Option<Engine>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("spec", &self.spec)
            .field("storage", &self.storage)
            .finish_non_exhaustive()
    }
}

/// What a policy pass saves for its backward pass.
pub enum Tape {
    /// On the processor.
    Host(Box<HostTape>),
    /// On a device.
    Device(Box<DeviceTape>),
}

/// What a policy pass on the processor saves.
pub struct HostTape {
    layout: Layout,
    blocks: Vec<Kept>,
    dropout: Option<Dropout>,
    /// Rows whose hidden states predict the targets.
    scored_rows: Vec<u32>,
    /// Hidden states of the scored rows before the final norm `[S, hidden]`.
    scored: Tensor,
    /// The batch's tokens, and the targets of the scored rows.
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// ∂ log p / ∂ h of the scored rows `[S, hidden]`, if their log-probs were read.
    slopes: Option<Tensor>,
    /// The log of each scored row's sum of exponentials.
    normalizers: Vec<f32>,
    /// The temperature of the distribution whose log-probs were read.
    temperature: f64,
    /// The scored rows behind the final norm `[S, hidden]`, if the scalar head read them.
    normed: Option<Tensor>,
    /// For each completion, Σ_t (log p − log Σ p²), if it was asked for.
    aligned: Option<Vec<f64>>,
}

/// The rows of a pass.
struct Layout {
    positions: Vec<u32>,
    trees: Vec<TreeSpans>,
    rotations: Vec<Rotation>,
    /// Rows of keys before those of each tree.
    prefix: usize,
}

impl Layout {
    fn rows(&self) -> Rows<'_> {
        Rows { trees: &self.trees, rotations: &self.rotations, prefix: self.prefix, wanted: None }
    }
}

/// A block's part of the tape: either everything it saved, or only its input, from which the block is recomputed.
enum Kept {
    Whole(Box<block::Saved>),
    Input(Tensor),
}

/// Training options of a policy pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Training {
    /// Dropout of this step.
    pub dropout: Option<Dropout>,
    /// Keep only the input of each block and recompute the block in the backward pass.
    pub recompute: bool,
    /// Noise on the embeddings; on the processor only.
    pub noise: Option<Noise>,
    /// Compute [`Tape::aligned`]; on the processor only.
    pub align: bool,
}

impl Decoder {
    /// The architecture.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The language-model head.
    pub fn head(&self) -> &Linear {
        &self.head
    }

    /// The frozen map of an adaptable module, by its path. The outputs of the embedding's are the tokens.
    pub fn linear(&self, module: &str) -> Option<&Linear> {
        if module == self.spec.embedding {
            return Some(&self.table);
        }
        if module == self.spec.head_linear().module {
            return Some(&self.head);
        }
        let mut projections = self.blocks.iter().flat_map(Block::projections);
        projections.find(|projection| projection.module == module).map(|projection| &projection.linear)
    }

    /// The storage types of its matrices: `bf16`, or several in order of appearance, such as `Q8_0+Q4_K`.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// Rejects tokens and positions that the model does not have.
    fn check_tokens(&self, tokens: &[u32], positions: &[u32]) -> Result<()> {
        if let Some(token) = tokens.iter().find(|t| **t as usize >= self.spec.vocab_size) {
            return Err(Error::Model(format!(
                "token {token} is outside the model's vocabulary of {}; does the tokenizer belong to this model?",
                self.spec.vocab_size
            )));
        }
        if let Some(position) = positions.iter().find(|p| **p as usize >= self.spec.max_positions) {
            return Err(Error::Model(format!(
                "position {position} is beyond the model's {} positions; shorten the text (in training, lower data.max_length)",
                self.spec.max_positions
            )));
        }
        Ok(())
    }

    /// Rejects targets outside the head's vocabulary.
    fn check_targets(&self, targets: &[u32]) -> Result<()> {
        match targets.iter().find(|target| **target as usize >= self.head.outputs()) {
            Some(target) => {
                Err(Error::Model(format!("target token {target} of a vocabulary of {}", self.head.outputs())))
            }
            None => Ok(()),
        }
    }

    /// The number of virtual tokens that a pass puts before every sequence (prefix tuning).
    ///
    /// # Errors
    /// As [`prefixed::check`], if there are any.
    pub fn virtual_tokens(&self, policy: &Policy, pass: Pass) -> Result<usize> {
        prefixed::length(&self.spec, policy, pass)
    }

    /// The rows of a batch. The tokens' positions begin behind those of a prefix.
    fn layout(&self, batch: &PackedBatch, policy: &Policy, pass: Pass, unread: usize) -> Result<Layout> {
        let prefix = self.virtual_tokens(policy, pass)?;
        let trees = prefixed::spans(spans(batch), prefix);
        let positions: Vec<u32> = batch.positions.iter().map(|position| position + prefix as u32).collect();
        let rotations = self.rotations(&positions, &trees, unread);
        Ok(Layout { positions, trees, rotations, prefix })
    }

    /// The rotations of all rows. `unread` is the number of tokens after the last row of each sequence that are only
    /// targets; they count towards its length.
    fn rotations(&self, positions: &[u32], trees: &[TreeSpans], unread: usize) -> Vec<Rotation> {
        self.spec.rotations.iter().map(|spec| lengths::rotation(spec, positions, trees, unread)).collect()
    }

    /// Returns the batch with those trees divided whose branches need different frequencies.
    pub fn divided<'a>(&self, batch: &'a PackedBatch) -> Cow<'a, PackedBatch> {
        lengths::divided(&self.spec.rotations, batch)
    }

    /// Computes the hidden states of the wanted rows after the last block, before the final norm:
    /// `[wanted.len(), hidden]`.
    fn blocks(
        &self,
        batch: &PackedBatch,
        context: &Context,
        wanted: &[u32],
        unread: usize,
    ) -> Result<Tensor> {
        let layout = self.layout(batch, context.policy, context.pass, unread)?;
        let (distinct, places) = distinct(wanted);
        let rows = layout.rows();
        let mut x = self.embed(&batch.tokens, &layout.positions, context)?;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &self.rows_of(i, rows, &distinct), context, None)?.0;
        }
        rows::gather(&x, &places)
    }

    /// The rows of a block. The last block computes only the wanted outputs.
    fn rows_of<'a>(&self, block: usize, rows: Rows<'a>, wanted: &'a [u32]) -> Rows<'a> {
        if block + 1 == self.blocks.len() { rows.only(wanted) } else { rows }
    }

    /// The summed log-prob of each completion of the batch, in nats and in order, without gradient; of a batch that is
    /// [`rewarded`](PackedBatch::rewarded), the reward of each.
    ///
    /// # Errors
    /// If the batch does not fit the model, or is rewarded and there is no scalar head.
    pub fn logps(&self, batch: &PackedBatch, policy: &Policy, pass: Pass) -> Result<Vec<f64>> {
        if self.is_on_device() && !batch.rewarded {
            return self.device_logps(&self.divided(batch), policy, pass);
        }
        Ok(self.read(batch, policy, pass, Readout::of(batch))?.scores(batch))
    }

    fn score_at(
        &self,
        hidden: &Tensor,
        head: &Linear,
        targets: &[u32],
        asked: Asked,
        temperature: f64,
    ) -> Result<token_logps::TokenLogps> {
        let product = 2 * targets.len() * self.spec.hidden * self.spec.vocab_size;
        let (name, flop) = if asked.slopes {
            ("token log-probs, policy", 2 * product)
        } else {
            ("token log-probs", product)
        };
        let logits = self.spec.logits.at(temperature);
        timed(name, flop, || token_logps::forward_with(hidden, head, logits, targets, asked))
    }

    /// Computes the logits `[rows.len(), vocab]` at rows of the batch.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn logits(&self, batch: &PackedBatch, rows: &[u32], policy: &Policy, pass: Pass) -> Result<Tensor> {
        if self.is_on_device() {
            let logits = self.device_logits(batch, rows, policy, pass)?;
            return Tensor::new(logits, (rows.len(), self.head.outputs()));
        }
        let context = Context { policy, pass, dropout: None, observer: None };
        let normed = self.final_norm.forward(&self.blocks(batch, &context, rows, 0)?)?;
        let head = self.head_of(&context)?;
        token_logps::logits(&normed, &head, self.spec.logits)
    }

    /// Runs the reference pass over all rows of the batch, which is [`Decoder::divided`] where that matters, on the processor, and shows `observer` the inputs of the linear
    /// modules.
    ///
    /// # Errors
    /// If the batch does not fit the model, or the errors of `observer`.
    pub fn observe(&self, batch: &PackedBatch, policy: &Policy, observer: Observer) -> Result<()> {
        let context = Context { policy, pass: Pass::Reference, dropout: None, observer: Some(observer) };
        let all: Vec<u32> = (0..batch.tokens.len() as u32).collect();
        self.blocks(batch, &context, &all, 1).map(|_| ())
    }

    /// Like [`Decoder::logps`] for the policy, but also returns what [`Decoder::backward`] needs.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn forward(
        &self,
        batch: &PackedBatch,
        policy: &Policy,
        training: Training,
    ) -> Result<(Vec<f64>, Tape)> {
        if self.is_on_device() && !batch.rewarded {
            if training.align {
                self.check_on_processor()?;
            }
            return self.device_forward(&self.divided(batch), policy, training);
        }
        let (read, tape) = self.forward_rows(batch, policy, training, Readout::of(batch))?;
        Ok((read.scores(batch), tape))
    }

    /// Adds to `gradients` (laid out as the trained adapter's values) the gradient of `Σ_c weights[c]·score[c]`, where the
    /// score is the log-prob or the reward. The policy must be that of the forward pass.
    ///
    /// # Errors
    /// If the tape does not belong to this batch, or nothing is trained.
    pub fn backward(
        &self,
        tape: Tape,
        batch: &PackedBatch,
        policy: &Policy,
        weights: &[f64],
        gradients: &mut [f32],
    ) -> Result<()> {
        self.check_gradients(policy, gradients)?;
        let tape = match tape {
            Tape::Host(tape) => tape,
            Tape::Device(tape) => {
                self.clear_device_gradient(policy)?;
                self.device_backward(*tape, &self.divided(batch), policy, weights)?;
                let found = self.device_gradient(policy)?;
                gradients.iter_mut().zip(found).for_each(|(sum, g)| *sum += g);
                return Ok(());
            }
        };
        let per_row = per_token(batch, weights);
        let slopes = match batch.rewarded {
            true => Read { values: per_row, ..Read::default() },
            false => Read { logps: per_row, ..Read::default() },
        };
        self.backward_rows(Tape::Host(tape), policy, &slopes, gradients)
    }

    /// Adds the gradients that follow from that of the normed hidden states `[S, hidden]` of the scored rows.
    fn backward_from(
        &self,
        tape: HostTape,
        d_normed: &Tensor,
        policy: &Policy,
        gradients: &mut [f32],
    ) -> Result<()> {
        let context = Context { policy, pass: Pass::Policy, dropout: tape.dropout, observer: None };
        let d_scored = self.final_norm.gradient(d_normed, &tape.scored)?;
        let (wanted, places) = distinct(&tape.scored_rows);
        let mut dx = rows::scatter_add(&d_scored, &places, wanted.len())?;

        let rows = tape.layout.rows();
        for (i, (block, kept)) in self.blocks.iter().zip(tape.blocks).enumerate().rev() {
            let rows = self.rows_of(i, rows, &wanted);
            let saved = match kept {
                Kept::Whole(saved) => saved,
                Kept::Input(x) => Box::new(block.forward(&x, &rows, &context, None)?.1),
            };
            dx = block.backward(&dx, &saved, &rows, &context, gradients)?;
        }
        self.embedding_gradient(&dx, &tape.tokens, &context, gradients);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
