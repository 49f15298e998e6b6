//! Log-probs of scored rows under the language-model head.

use std::sync::Arc;

use super::base::Base;
use super::kernels::{Kernels, Rows};
use super::weights::{Group, PAD, Table};
use crate::device::{Address, Backend, Buffer, Form, Kind};
use crate::error::Result;
use crate::ops::token_logps::LogitShape;

/// Approximate bytes of f32 logits in memory at once.
const LOGITS: usize = 160 << 20;
/// The largest and smallest number of scored rows processed at once.
const MOST_ROWS: usize = 2048;
const FEWEST_ROWS: usize = 256;

/// The head's weights.
pub(super) struct Head {
    weight: Weight,
    bias: Option<Buffer>,
    pub(super) vocab: usize,
    hidden: usize,
    shape: LogitShape,
}

enum Weight {
    /// The embedding's rows are used directly.
    Shared,
    Own(Group),
}

/// The context of a product of the head.
pub(super) struct HeadWork<'a> {
    pub(super) kernels: Kernels<'a>,
    pub(super) embedding: Address,
    pub(super) scratch: Address,
}

impl Head {
    pub(super) fn new(device: &Arc<dyn Backend>, kind: Kind, base: &Base, embedding: &Table) -> Result<Self> {
        let linear = base.head;
        // The embedding is used directly if it has the storage type of the computation and rows that products can read.
        let code = i32::from(kind == Kind::Bf16);
        let shared = base.spec.head.is_none()
            && embedding.kind == code
            && linear.inputs().is_multiple_of(PAD)
            && !linear.transposed();
        let weight =
            if shared { Weight::Shared } else { Weight::Own(Group::new(device, kind, &[linear], 0)?) };
        let bias = linear.bias().map(|bias| Buffer::of(device, bias)).transpose()?;
        let (vocab, hidden, shape) = (linear.outputs(), linear.inputs(), base.spec.logits);
        Ok(Self { weight, bias, vocab, hidden, shape })
    }

    pub(super) fn scratch(&self) -> usize {
        match &self.weight {
            Weight::Shared => 0,
            Weight::Own(group) => group.scratch(),
        }
    }

    /// Number of scored rows whose logits are in memory at once.
    pub(super) fn chunk(&self) -> usize {
        (LOGITS / (4 * self.vocab)).next_multiple_of(128).clamp(FEWEST_ROWS, MOST_ROWS)
    }

    /// The weight `[vocab, hidden]`.
    pub(super) fn matrix(&self, work: &HeadWork) -> Result<Rows> {
        match &self.weight {
            Weight::Shared => Ok(Rows::new(work.embedding, self.hidden)),
            Weight::Own(group) => group.matrix(&work.kernels, work.scratch),
        }
    }

    fn logits_of(&self) -> (Address, f32, f32) {
        let bias = self.bias.as_ref().map_or(Address::NONE, Buffer::at);
        (bias, self.shape.scale, self.shape.softcap.unwrap_or(0.0))
    }

    /// Computes the head's product `[rows, vocab]` in f32.
    pub(super) fn product(
        &self,
        kernels: &Kernels,
        hidden: Rows,
        matrix: Rows,
        to: Rows,
        rows: usize,
    ) -> Result<()> {
        let shape = [rows, self.vocab, self.hidden];
        kernels.wide_product(Form::Forward, shape, (hidden, matrix), to, (false, false))
    }

    /// Computes the log-probs of `targets` from the head's product, and the weights of their slopes if a buffer is
    /// given.
    pub(super) fn logps(
        &self,
        kernels: &Kernels,
        logits: Rows,
        (targets, logps): (Address, Address),
        weights: Rows,
        rows: usize,
    ) -> Result<()> {
        kernels.token_logps(logits, self.logits_of(), (targets, logps), weights, (rows, self.vocab))
    }

    /// Applies bias, scaling and soft-cap to the logits in place, as the soft-max uses them.
    pub(super) fn shaped(&self, kernels: &Kernels, logits: Rows, rows: usize) -> Result<()> {
        kernels.shape_logits(logits, self.logits_of(), (rows, self.vocab))
    }

    /// Computes `∂ logp / ∂ hidden [rows, hidden]`.
    pub(super) fn slopes(
        &self,
        kernels: &Kernels,
        weights: Rows,
        matrix: Rows,
        to: Rows,
        rows: usize,
    ) -> Result<()> {
        kernels.split_product(Form::Backward, [rows, self.hidden, self.vocab], weights, matrix, to)
    }
}
