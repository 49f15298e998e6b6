//! What is read from the final hidden states of a batch's scored rows: log-probs of their targets by the language-model
//! head, and numbers by the scalar head of a reward or value model.

use super::Decoder;
use super::layout::{aligned, distinct, sums};
use super::{HostTape, Kept, Tape, Training};
use crate::data::PackedBatch;
use crate::error::{Error, Result};
use crate::model::pass::{Context, Pass};
use crate::ops::Tensor;
use crate::ops::rows;
use crate::ops::simd::add_scaled;
use crate::ops::token_logps::{self, Asked};
use crate::trainable::Policy;

/// What is read from the scored rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Readout {
    /// The log-probs of the targets.
    pub logps: bool,
    /// The outputs of the trained scalar head.
    pub values: bool,
    /// The temperature of the distribution whose log-probs are read.
    pub temperature: f64,
}

impl Readout {
    /// What the completions of a batch are scored by.
    pub fn of(batch: &PackedBatch) -> Self {
        Self { logps: !batch.rewarded, values: batch.rewarded, temperature: 1.0 }
    }
}

/// What was read, for each scored row `[S]`; empty if it was not asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// log π(target), nats.
    pub logps: Vec<f32>,
    /// Outputs of the scalar head.
    pub values: Vec<f32>,
}

impl Read {
    /// Returns the score of each completion: its reward, or its summed log-prob.
    pub(super) fn scores(&self, batch: &PackedBatch) -> Vec<f64> {
        sums(if batch.rewarded { &self.values } else { &self.logps }, batch)
    }
}

impl Decoder {
    /// Reads the scored rows of a batch without gradient.
    ///
    /// # Errors
    /// If the batch does not fit the model, it computes on a device, or there is no scalar head to read.
    pub fn read(&self, batch: &PackedBatch, policy: &Policy, pass: Pass, readout: Readout) -> Result<Read> {
        let batch = &*self.divided(batch);
        self.check_readout(readout)?;
        let context = Context { policy, pass, dropout: None, observer: None };
        let scored = self.blocks(batch, &context, &batch.scored_rows, batch.unread())?;
        let normed = self.final_norm.forward(&scored)?;
        let values = if readout.values { values(&normed, policy)? } else { Vec::new() };
        let logps = match readout.logps {
            true => {
                let head = self.head_of(&context)?;
                self.score_at(&normed, &head, &batch.scored_targets, Asked::default(), readout.temperature)?
                    .logps
            }
            false => Vec::new(),
        };
        Ok(Read { logps, values })
    }

    /// Reads the scored rows of a batch under the policy, and returns what [`Decoder::backward_rows`] needs.
    ///
    /// # Errors
    /// As [`Decoder::read`].
    pub fn forward_rows(
        &self,
        batch: &PackedBatch,
        policy: &Policy,
        training: Training,
        readout: Readout,
    ) -> Result<(Read, Tape)> {
        let batch = &*self.divided(batch);
        self.check_readout(readout)?;
        let layout = self.layout(batch, policy, Pass::Policy, batch.unread())?;
        let (wanted, places) = distinct(&batch.scored_rows);
        let rows = layout.rows();
        let context = Context { policy, pass: Pass::Policy, dropout: training.dropout, observer: None };
        let mut x = self.embed(&batch.tokens, &layout.positions, &context)?;
        if let Some(noise) = training.noise {
            x = noise.add(&x, batch)?;
        }
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, saved) = block.forward(&x, &self.rows_of(i, rows, &wanted), &context, None)?;
            blocks.push(if training.recompute { Kept::Input(x) } else { Kept::Whole(Box::new(saved)) });
            x = y;
        }
        let scored = rows::gather(&x, &places)?;
        let normed = self.final_norm.forward(&scored)?;
        let mut read = Read::default();
        let (mut slopes, mut normalizers, mut sums_aligned) = (None, Vec::new(), None);
        if readout.logps {
            let asked = Asked { slopes: true, squares: training.align };
            let head = self.head_of(&context)?;
            let found = self.score_at(&normed, &head, &batch.scored_targets, asked, readout.temperature)?;
            sums_aligned = aligned(&found, batch);
            (read.logps, slopes, normalizers) = (found.logps, found.slopes, found.normalizers);
        }
        if readout.values {
            read.values = values(&normed, policy)?;
        }
        let (dropout, scored_rows) = (training.dropout, batch.scored_rows.clone());
        let normed = readout.values.then_some(normed);
        let aligned = sums_aligned;
        let tape = HostTape {
            layout,
            blocks,
            dropout,
            scored_rows,
            scored,
            tokens: batch.tokens.clone(),
            targets: batch.scored_targets.clone(),
            slopes,
            normalizers,
            temperature: readout.temperature,
            normed,
            aligned,
        };
        Ok((read, Tape::Host(Box::new(tape))))
    }

    /// Adds to `gradients` (laid out as the trained adapter's values) the gradient of `Σ_s slopes.logps[s]·logps[s] +
    /// slopes.values[s]·values[s]` over the scored rows. The policy must be that of the forward pass.
    ///
    /// # Errors
    /// If the tape does not belong to this batch and readout, or nothing is trained.
    pub fn backward_rows(
        &self,
        tape: Tape,
        policy: &Policy,
        slopes: &Read,
        gradients: &mut [f32],
    ) -> Result<()> {
        let Tape::Host(tape) = tape else { return Err(on_device()) };
        self.check_gradients(policy, gradients)?;
        if tape.slopes.is_some() {
            let context = Context { policy, pass: Pass::Policy, dropout: tape.dropout, observer: None };
            let shape = self.spec.logits.at(tape.temperature);
            let scored = (&tape.scored, tape.normalizers.as_slice(), shape);
            self.head_gradient(scored, &tape.targets, &slopes.logps, &context, gradients)?;
        }
        let d_normed = d_normed(&tape, policy, slopes, gradients)?;
        self.backward_from(*tape, &d_normed, policy, gradients)
    }

    fn check_readout(&self, readout: Readout) -> Result<()> {
        if self.is_on_device() && readout.values { Err(on_device()) } else { Ok(()) }
    }

    pub(super) fn check_gradients(&self, policy: &Policy, gradients: &[f32]) -> Result<()> {
        if policy.is_adapted() && policy.trained.values().len() == gradients.len() {
            return Ok(());
        }
        Err(Error::Model("the gradient buffer does not belong to the trained adapter".into()))
    }
}

/// The gradient of the normed hidden states `[S, hidden]`. Adds that of the scalar head.
fn d_normed(tape: &HostTape, policy: &Policy, d: &Read, gradients: &mut [f32]) -> Result<Tensor> {
    let mut sum = match &tape.slopes {
        Some(slopes) => token_logps::backward(slopes, &d.logps)?,
        None => {
            let (rows, columns) = tape.scored.shape();
            Tensor::zeros(rows, columns)
        }
    };
    if d.values.is_empty() {
        return Ok(sum);
    }
    let (head, range) = head(policy)?;
    let normed =
        tape.normed.as_ref().filter(|normed| normed.shape().0 == d.values.len()).ok_or_else(|| {
            Error::Model("the gradient of the scalar head does not belong to this pass".into())
        })?;
    let width = head.len().max(1);
    let of_head = &mut gradients[range];
    let mut numbers = sum.into_numbers();
    let rows = numbers.chunks_exact_mut(width).zip(normed.numbers().chunks_exact(width));
    for ((dx, x), slope) in rows.zip(&d.values) {
        add_scaled(dx, head, *slope);
        add_scaled(of_head, x, *slope);
    }
    let shape = normed.shape();
    sum = Tensor::new(numbers, shape)?;
    Ok(sum)
}

/// The weight `[hidden]` of the trained scalar head and its range among the trained values.
fn head(policy: &Policy) -> Result<(&[f32], std::ops::Range<usize>)> {
    policy.trained.score().ok_or_else(|| {
        Error::Adapter(
            "the adapter has no scalar head (score), so that it gives no rewards; name a reward model".into(),
        )
    })
}

/// The output of the scalar head for each row of `normed [S, hidden]`, summed in f64.
fn values(normed: &Tensor, policy: &Policy) -> Result<Vec<f32>> {
    let (head, _) = head(policy)?;
    if normed.shape().1 != head.len() {
        return Err(Error::Model(format!(
            "a scalar head of {} inputs for {} features",
            head.len(),
            normed.shape().1
        )));
    }
    let dot =
        |row: &[f32]| row.iter().zip(head).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32;
    Ok(normed.numbers().chunks_exact(head.len().max(1)).map(dot).collect())
}

fn on_device() -> Error {
    Error::Config(
        "reward models and rollouts are computed on the processor only; set model.device: cpu (--device cpu)"
            .into(),
    )
}
