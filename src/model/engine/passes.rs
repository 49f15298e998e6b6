//! Complete passes, from a batch to log-probs or logits.

use super::Engine;
use super::batch::{self, Input, Placed};
use super::forward::{Keeping, Passing, Saved};
use super::head::HeadWork;
use super::kernels::Rows;
use super::lora::Route;
use super::weights::PAD;
use crate::device::{Address, Mark};
use crate::error::Result;
use crate::model::pass::Pass;
use crate::trainable::Dropout;

/// What a policy pass leaves on the device for its backward pass.
pub struct DeviceTape {
    /// Identifies the tape among the engine's tapes.
    pub(super) id: u64,
    pub(super) placed: Placed,
    pub(super) route: Route,
    /// The pass's buffers for branch outputs.
    pub(super) branches: [Rows; 2],
    /// Everything that each block saved; with recomputation only its input.
    pub(super) blocks: Vec<Saved>,
    pub(super) recompute: bool,
    /// The residual stream after the last block.
    pub(super) last: Address,
    pub(super) slopes: Address,
    /// The scored items by row, from `batch::by_row`.
    pub(super) starts: Address,
    pub(super) items: Address,
    pub(super) scored: usize,
}

impl Engine {
    /// Returns the log-probs of `targets` at the `scored` rows of the stream, and computes their slopes if requested.
    pub(super) fn score(
        &mut self,
        last: Address,
        (scored, targets): (&[u32], &[u32]),
        slopes: Option<Address>,
    ) -> Result<Vec<f32>> {
        let (count, hidden) = (scored.len(), self.spec.hidden);
        let (vocab, size) = (self.head.vocab, self.kind.size());
        let (pitch, l_pitch) = (hidden.next_multiple_of(PAD), vocab.next_multiple_of(PAD));
        let mark = self.temp.mark();
        let (scored, targets) = (self.temp.put(scored)?, self.temp.put(targets)?);
        let chunk = self.head.chunk().min(count.max(1));
        let normed = self.take_rows(false, chunk, pitch)?;
        let logits = Rows::new(self.temp.take(4 * chunk * l_pitch)?, l_pitch);
        let weights = if slopes.is_some() { self.take_rows(false, chunk, l_pitch)? } else { Rows::NONE };
        let logps = self.temp.take(4 * count)?;
        let kernels = self.kernels();
        let work = HeadWork { kernels, embedding: self.embedding.at(), scratch: self.scratch() };
        let matrix = self.head.matrix(&work)?;
        for first in (0..count).step_by(chunk) {
            let rows = chunk.min(count - first);
            let picked = (rows, scored.plus(4 * first));
            kernels.norm_forward(
                last,
                picked,
                None,
                Address::NONE,
                (self.final_norm.at(), normed),
                hidden,
            )?;
            self.head.product(&kernels, normed, matrix, logits, rows)?;
            let places = (targets.plus(4 * first), logps.plus(4 * first));
            self.head.logps(&kernels, logits, places, weights, rows)?;
            if let Some(slopes) = slopes {
                let to = Rows::new(slopes.plus(first * hidden * size), hidden);
                self.head.slopes(&kernels, weights, matrix, to, rows)?;
            }
        }
        let mut found = vec![0f32; count];
        self.device.download(logps, bytemuck::cast_slice_mut(&mut found))?;
        self.temp.reset(mark)?;
        Ok(found)
    }

    /// Returns the log-probs of `targets` at the `scored` rows, without gradient.
    ///
    /// # Errors
    /// If the device fails or runs out of memory.
    pub(in crate::model) fn logps(
        &mut self,
        input: &Input,
        scored: &[u32],
        targets: &[u32],
        pass: Pass,
    ) -> Result<Vec<f32>> {
        if scored.is_empty() {
            return Ok(Vec::new());
        }
        self.over(input, pass, |engine, last| engine.score(last, (scored, targets), None))
    }

    /// Returns the logits `[rows.len(), vocab]` at `rows`.
    ///
    /// # Errors
    /// As [`Engine::logps`].
    pub(in crate::model) fn logits(&mut self, input: &Input, rows: &[u32], pass: Pass) -> Result<Vec<f32>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.over(input, pass, |engine, last| engine.logits_at(last, rows))
    }

    /// Runs a pass that leaves nothing on the stacks, and returns the result of `read` on the stream after the last
    /// block.
    fn over<T>(
        &mut self,
        input: &Input,
        pass: Pass,
        read: impl FnOnce(&mut Self, Address) -> Result<T>,
    ) -> Result<T> {
        let marks = self.begin()?;
        let placed = self.place(input)?;
        let route = self.route(pass, None);
        let branches = self.branches(placed.rows)?;
        let pass = Passing { placed: &placed, route, branches };
        let (last, _) = self.stream(&pass, Keeping::Nothing, false)?;
        let found = read(self, last)?;
        self.end(marks)?;
        Ok(found)
    }

    /// Returns the logits at the given rows of the stream.
    pub(super) fn logits_at(&mut self, last: Address, rows: &[u32]) -> Result<Vec<f32>> {
        let (vocab, hidden, count) = (self.head.vocab, self.spec.hidden, rows.len());
        let picked = self.temp.put(rows)?;
        let normed = self.take_rows(false, count, hidden.next_multiple_of(PAD))?;
        let logits = Rows::new(self.temp.take(4 * count * vocab)?, vocab);
        let kernels = self.kernels();
        let work = HeadWork { kernels, embedding: self.embedding.at(), scratch: self.scratch() };
        let picked = (count, picked);
        kernels.norm_forward(last, picked, None, Address::NONE, (self.final_norm.at(), normed), hidden)?;
        self.head.product(&kernels, normed, self.head.matrix(&work)?, logits, count)?;
        self.head.shaped(&kernels, logits, count)?;
        let mut found = vec![0f32; count * vocab];
        self.device.download(logits.at, bytemuck::cast_slice_mut(&mut found))?;
        Ok(found)
    }

    /// Returns the policy's log-probs of `targets`, and the tape for [`Engine::backward`].
    ///
    /// # Errors
    /// As [`Engine::logps`].
    pub(in crate::model) fn forward(
        &mut self,
        input: &Input,
        (scored, targets): (&[u32], &[u32]),
        (dropout, recompute): (Option<Dropout>, bool),
    ) -> Result<(Vec<f32>, DeviceTape)> {
        // Discards a tape whose backward pass was never run.
        self.keep.reset(Mark::default())?;
        self.temp.reset(Mark::default())?;
        self.tape += 1;
        let placed = self.place(input)?;
        let route = self.route(Pass::Policy, dropout);
        let branches = self.branches(placed.rows)?;
        let pass = Passing { placed: &placed, route, branches };
        let (last, blocks) = self.stream(&pass, Keeping::All, recompute)?;
        let size = self.kind.size();
        let slopes = self.keep.take(scored.len() * self.spec.hidden * size)?;
        let found = self.score(last, (scored, targets), Some(slopes))?;
        let (starts, items) = batch::by_row(scored, placed.rows);
        let (starts, items) = (self.keep.put(&starts)?, self.keep.put(&items)?);
        let tape = DeviceTape {
            id: self.tape,
            placed,
            route,
            branches,
            blocks,
            recompute,
            last,
            slopes,
            starts,
            items,
            scored: scored.len(),
        };
        Ok((found, tape))
    }

    /// Returns the stack marks before a pass that leaves nothing on the stacks.
    pub(super) fn begin(&mut self) -> Result<[Mark; 2]> {
        Ok([self.keep.mark(), self.temp.mark()])
    }

    pub(super) fn end(&mut self, [keep, temp]: [Mark; 2]) -> Result<()> {
        self.keep.reset(keep)?;
        self.temp.reset(temp)
    }
}
