//! The backward pass: the forward pass in reverse order.

use super::Engine;
use super::forward::{Keeping, Passing, Saved, Stream};
use super::kernels::{Branch, NormAt, Qkv, Rows};
use super::passes::DeviceTape;
use super::weights::PAD;
use crate::device::{Address, Mark};
use crate::error::{Error, Result};

/// The gradient of the residual stream, f32 `[rows, hidden]`, and the gradient of the branch that was added last, with
/// room for the ranks of its projection.
#[derive(Clone, Copy)]
struct Down {
    dx: Address,
    branch: Rows,
}

impl Engine {
    /// Adds the gradient of `Σ weights·logps` over the scored items to the trained adapter's gradient.
    ///
    /// # Errors
    /// If the tape is not the latest one, or the device fails.
    pub(in crate::model) fn backward(&mut self, tape: DeviceTape, weights: &[f32]) -> Result<()> {
        if tape.id != self.tape || weights.len() != tape.scored || !self.trains {
            return Err(Error::Model(
                "the tape does not belong to the last forward pass on this device".into(),
            ));
        }
        self.temp.reset(Mark::default())?;
        let (rows, hidden) = (tape.placed.rows, self.spec.hidden);
        let pass = Passing { placed: &tape.placed, route: tape.route, branches: tape.branches };
        if let Some(last) = self.layers.len().checked_sub(1) {
            let weights = self.temp.put(weights)?;
            let dx = self.temp.take(4 * rows * hidden)?;
            let branch = self.take_rows(false, rows, self.widest_branch())?;
            let down = Down { dx, branch };
            self.scored(&tape, weights, down, last)?;
            let start = self.temp.mark();
            for i in (0..=last).rev() {
                let kept = self.keep.mark();
                let saved = if tape.recompute {
                    let stream = Stream { x: tape.blocks[i].x, pending: None };
                    self.block(&pass, i, stream, Keeping::All)?.0
                } else {
                    tape.blocks[i]
                };
                if self.layer(i).post_mlp_norm().kind != 0 {
                    self.through_post_norm(i, false, &saved, down, rows)?;
                }
                self.block_backward(&pass, i, &saved, down)?;
                self.temp.reset(start)?;
                // Recomputed results are on top of the stack.
                self.keep.reset(kept)?;
            }
        }
        (self.fresh, self.given) = (false, false);
        self.tape += 1;
        self.keep.reset(Mark::default())?;
        self.temp.reset(Mark::default())
    }

    /// Returns the pitch of the widest output gradient of an MLP's last projection.
    fn widest_branch(&self) -> usize {
        self.layers.iter().map(|layer| layer.down.group.pitch_out()).max().unwrap_or(0)
    }

    fn scored(&self, tape: &DeviceTape, weights: Address, down: Down, last: usize) -> Result<()> {
        let layer = self.layer(last);
        let branch = Rows::new(down.branch.at, layer.down.group.pitch_out());
        let out = if layer.post_mlp_norm().kind == 0 { branch } else { Rows::NONE };
        self.kernels().scored_backward(
            (tape.slopes, weights, tape.starts, tape.items),
            tape.last,
            self.final_norm.at(),
            down.dx,
            (layer.scale, out),
            (tape.placed.rows, self.spec.hidden),
        )
    }

    /// Computes the gradient of a branch whose output is normalised.
    fn through_post_norm(
        &self,
        i: usize,
        attention: bool,
        saved: &Saved,
        down: Down,
        rows: usize,
    ) -> Result<()> {
        let layer = self.layer(i);
        let (y, bias, post, pitch) = if attention {
            let pitch = layer.output.group.pitch_out();
            (saved.attention_output, layer.output_bias(), layer.post_attention_norm(), pitch)
        } else {
            let pitch = layer.down.group.pitch_out();
            (saved.mlp_output, layer.down.group.bias(), layer.post_mlp_norm(), pitch)
        };
        let branch = Branch { y, bias, post, scale: layer.scale };
        let out = Rows::new(down.branch.at, pitch);
        self.kernels().post_norm_backward(down.dx, branch, out, (rows, self.spec.hidden))
    }

    /// Runs the backward pass of block `i`. On entry `down.branch` holds the gradient of the MLP's output; on return it
    /// holds that of the previous block, unless a norm follows it.
    fn block_backward(&mut self, pass: &Passing, i: usize, saved: &Saved, down: Down) -> Result<()> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let padded = hidden.next_multiple_of(PAD);
        let mlp_branch = Rows::new(down.branch.at, self.layer(i).down.group.pitch_out());
        let db = self.mlp_backward(pass, i, saved, mlp_branch)?;
        let layer = self.layer(i);
        let (parallel, shares, scale) = (layer.parallel, layer.shares_input(), layer.scale);
        let (mlp_norm, attention_norm, post) =
            (layer.mlp_norm(), layer.attention_norm(), layer.post_attention_norm());
        let o_pitch = layer.output.group.pitch_out();
        let bytes = self.bytes(rows, o_pitch);
        let attention = Down { branch: Rows::new(self.temp.take(bytes)?, o_pitch), ..down };
        let out = if post.kind == 0 { attention.branch } else { Rows::NONE };
        let nothing = NormAt::default();
        if parallel {
            // The gradient of attention's branch is that of the stream, like the MLP's.
            self.kernels().norm_backward(
                (Rows::NONE, Rows::NONE),
                saved.x,
                nothing,
                down.dx,
                (scale, out),
                (rows, hidden),
            )?;
        } else {
            let x = saved.middle;
            self.kernels().norm_backward(
                (db, Rows::NONE),
                x,
                mlp_norm,
                down.dx,
                (scale, out),
                (rows, hidden),
            )?;
        }
        if post.kind != 0 {
            self.through_post_norm(i, true, saved, attention, rows)?;
        }
        // Nothing before the first block is trained, so the gradient of its input is not needed.
        let da = if i > 0 { self.take_rows(false, rows, padded)? } else { Rows::NONE };
        self.attention_backward(pass, i, saved, attention.branch, (i > 0).then_some(da))?;
        if i == 0 {
            return Ok(());
        }
        let before = self.layer(i - 1);
        let branch = Rows::new(down.branch.at, before.down.group.pitch_out());
        let out = if before.post_mlp_norm().kind == 0 { branch } else { Rows::NONE };
        let scaled = (before.scale, out);
        let sizes = (rows, hidden);
        if parallel && !shares {
            let alone = (1.0, Rows::NONE);
            self.kernels().norm_backward((db, Rows::NONE), saved.x, mlp_norm, down.dx, alone, sizes)?;
        }
        let second = if parallel && shares { db } else { Rows::NONE };
        self.kernels().norm_backward((da, second), saved.x, attention_norm, down.dx, scaled, sizes)
    }

    /// Runs the backward pass of the MLP and returns the gradient of its input, after the norm.
    fn mlp_backward(&mut self, pass: &Passing, i: usize, saved: &Saved, dy: Rows) -> Result<Rows> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let layer = self.layer(i);
        let (h_pitch, y_pitch, width) =
            (layer.down.group.pitch_in(), layer.mlp_in.group.pitch_out(), layer.width);
        let (gate, bias) = ((layer.act, layer.gated, layer.width), layer.mlp_in.group.bias());
        let wide = width.next_multiple_of(PAD);
        let dh = self.take_rows(false, rows, wide)?;
        let h = self.take_rows(false, rows, h_pitch)?;
        let d_hidden = self.take_rows(false, rows, y_pitch)?;
        self.map_input(pass, (i, 3), dy, Some(dh))?;
        // The hidden layer is recomputed.
        self.kernels().act_backward(dh, (saved.hidden, bias), gate, (d_hidden, h), rows)?;
        self.map_low_rank(pass, i, 3, h)?;
        self.map_weights(pass, (i, 3), dy, h)?;
        let db = self.take_rows(false, rows, hidden.next_multiple_of(PAD))?;
        self.map_input(pass, (i, 2), d_hidden, Some(db))?;
        self.map_weights(pass, (i, 2), d_hidden, saved.b)?;
        Ok(db)
    }

    /// Runs the backward pass of attention, from the gradient of the output projection to that of the inputs of
    /// queries, keys and values.
    fn attention_backward(
        &mut self,
        pass: &Passing,
        i: usize,
        saved: &Saved,
        dy: Rows,
        da: Option<Rows>,
    ) -> Result<()> {
        let rows = pass.placed.rows;
        let (attention, shape) = (self.attention(i, pass.placed), self.shape(i, pass.placed));
        let (q, _) = self.layer(i).widths();
        let y_pitch = self.layer(i).qkv.group.pitch_out();
        let projected = if self.layer(i).keeps_projected() { saved.projected } else { Rows::NONE };
        let d_o = self.take_rows(false, rows, q.next_multiple_of(PAD))?;
        self.map_input(pass, (i, 1), dy, Some(d_o))?;
        self.map_weights(pass, (i, 1), dy, saved.o)?;
        let delta = self.temp.take(4 * rows * attention.heads)?;
        let mut part = || self.take_rows(false, rows, q);
        let d = Qkv { q: part()?.at, k: part()?.at, v: part()?.at };
        let dy = self.take_rows(false, rows, y_pitch)?;
        let kernels = self.kernels();
        kernels.attention_delta((d_o, saved.o), delta, &attention, rows)?;
        kernels.attention_backward(saved.qkv, d_o, (saved.lse, delta), &attention, d)?;
        kernels.qkv_backward(d, projected, &shape, dy, rows)?;
        self.map_input(pass, (i, 0), dy, da)?;
        self.map_weights(pass, (i, 0), dy, saved.a)
    }
}
