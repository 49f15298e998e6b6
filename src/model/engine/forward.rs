//! The forward pass.

use super::Engine;
use super::batch::{self, Input, Placed};
use super::kernels::{Attention, Branch, Kernels, NormAt, Qkv, Rows, Shape};
use super::layer::is_interleaved;
use super::lora::{Route, Work};
use super::weights::PAD;
use crate::device::Address;
use crate::error::Result;

/// What a block saves for its backward pass. The addresses are on the engine's stack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saved {
    /// The residual stream before the block, and after attention, f32.
    pub(super) x: Address,
    pub(super) middle: Address,
    /// The inputs of the projections, with their ranks.
    pub(super) a: Rows,
    pub(super) o: Rows,
    pub(super) b: Rows,
    /// Queries and keys as projected, if norms or clipping follow.
    pub(super) projected: Rows,
    pub(super) qkv: Qkv,
    pub(super) lse: Address,
    /// The MLP's hidden layer as projected.
    pub(super) hidden: Rows,
    /// Outputs of the branches, if norms follow.
    pub(super) attention_output: Rows,
    pub(super) mlp_output: Rows,
}

/// The residual stream, and the branch that is still to be added to it.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub(super) x: Address,
    pub(super) pending: Option<Branch>,
}

/// Which of a block's results outlive it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// None.
    Nothing,
    /// Everything that its backward pass needs.
    All,
}

/// A pass over a batch.
pub(super) struct Passing<'a> {
    pub(super) placed: &'a Placed,
    pub(super) route: Route,
    /// Two buffers for the outputs of branches `[rows, hidden]`, used in turn.
    pub(super) branches: [Rows; 2],
}

impl Engine {
    pub(super) fn bytes(&self, rows: usize, pitch: usize) -> usize {
        rows * pitch * self.kind.size()
    }

    /// Takes memory from the stack that outlives the block if `keep` is set, or else from the temporary one.
    pub(super) fn take(&mut self, keep: bool, bytes: usize) -> Result<Address> {
        if keep { self.keep.take(bytes) } else { self.temp.take(bytes) }
    }

    pub(super) fn take_rows(&mut self, keep: bool, rows: usize, pitch: usize) -> Result<Rows> {
        let bytes = self.bytes(rows, pitch);
        Ok(Rows::new(self.take(keep, bytes)?, pitch))
    }

    /// Copies a batch to the device.
    pub(super) fn place(&mut self, input: &Input) -> Result<Placed> {
        batch::place((&self.device, &mut self.keep), &self.spec.rotations, &mut self.angles, input)
    }

    /// Computes the token embeddings in f32.
    pub(super) fn embed(&self, placed: &Placed, x: Address) -> Result<()> {
        let table = (self.embedding.at(), self.embedding.kind, self.spec.embedding_scale);
        let offset = self.spec.positions.as_ref().map_or(0, |learned| learned.offset);
        let learned = match &self.positions {
            Some(learned) => (learned.at(), learned.kind, offset),
            None => (Address::NONE, 0, 0),
        };
        let sizes = (placed.rows, self.spec.hidden);
        self.kernels().embed((placed.tokens, placed.positions), table, learned, sizes, x)
    }

    pub(super) fn branches(&mut self, rows: usize) -> Result<[Rows; 2]> {
        let pitch = self.spec.hidden.next_multiple_of(PAD);
        Ok([self.take_rows(true, rows, pitch)?, self.take_rows(true, rows, pitch)?])
    }

    /// Describes the attention of block `i`.
    pub(super) fn attention(&self, i: usize, placed: &Placed) -> Attention {
        let heads = &self.layers[i].heads;
        Attention {
            tiles: placed.tiles,
            tile_count: placed.tile_count,
            key_tiles: placed.key_tiles,
            key_tile_count: placed.key_tile_count,
            positions: placed.positions,
            heads: heads.n_head,
            kv_heads: heads.n_kv_head,
            head_dim: heads.head_dim,
            scale: heads.scale,
            softcap: heads.softcap.unwrap_or(0.0),
            window: heads.window.unwrap_or(0),
            flop: placed.flop(heads),
        }
    }

    pub(super) fn shape(&self, i: usize, placed: &Placed) -> Shape {
        let interleaved = |rotation: usize| is_interleaved(self.spec.rotations[rotation].pairing);
        self.layers[i].shape(&placed.angles, interleaved)
    }

    fn work(&mut self, route: Route, rows: usize) -> Work<'_, '_> {
        let scratch = self.scratch();
        let kernels = Kernels { device: &*self.device, kind: self.kind };
        Work { kernels, temp: &mut self.temp, scratch, route, rows }
    }

    /// Runs the forward pass of a linear map of block `i`.
    pub(super) fn map(&mut self, pass: &Passing, i: usize, which: usize, x: Rows, y: Rows) -> Result<()> {
        let layers = self.layers.clone();
        layers[i].mapped()[which].forward(&mut self.work(pass.route, pass.placed.rows), x, y)
    }

    /// Runs only the low-rank part of a linear map.
    pub(super) fn map_low_rank(&mut self, pass: &Passing, i: usize, which: usize, x: Rows) -> Result<()> {
        let layers = self.layers.clone();
        layers[i].mapped()[which].low_rank(&mut self.work(pass.route, pass.placed.rows), x)
    }

    /// Computes the gradient of a linear map's input.
    pub(super) fn map_input(
        &mut self,
        pass: &Passing,
        (i, which): (usize, usize),
        dy: Rows,
        dx: Option<Rows>,
    ) -> Result<()> {
        let layers = self.layers.clone();
        layers[i].mapped()[which].input_backward(&mut self.work(pass.route, pass.placed.rows), dy, dx)
    }

    /// Computes the gradients of a linear map's trained matrices.
    pub(super) fn map_weights(
        &mut self,
        pass: &Passing,
        (i, which): (usize, usize),
        dy: Rows,
        x: Rows,
    ) -> Result<()> {
        let (layers, first) = (self.layers.clone(), self.fresh);
        let mut work = self.work(pass.route, pass.placed.rows);
        layers[i].mapped()[which].weights_backward(&mut work, dy, x, first)
    }

    /// Runs block `i`. Returns what it saved and the stream after it, whose pending branch is the MLP's.
    pub(super) fn block(
        &mut self,
        pass: &Passing,
        i: usize,
        stream: Stream,
        keep: Keeping,
    ) -> Result<(Saved, Stream)> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let all = keep == Keeping::All;
        let mut saved = Saved { x: stream.x, ..Saved::default() };
        if stream.pending.is_some() && all {
            saved.x = self.take(true, 4 * rows * hidden)?;
        }
        let layer = &self.layers[i];
        let (norm, pitch) = (layer.attention_norm(), layer.qkv.group.pitch_in());
        saved.a = self.take_rows(all, rows, pitch)?;
        let x_out = if stream.pending.is_some() { saved.x } else { Address::NONE };
        self.kernels().norm_forward(
            stream.x,
            (rows, Address::NONE),
            stream.pending,
            x_out,
            (norm, saved.a),
            hidden,
        )?;
        self.attend(pass, i, &mut saved, all, Address::NONE, None)?;
        self.feed_forward(pass, i, saved, all)
    }

    /// Runs the attention of block `i`, up to the output projection. During generation, keys and values are written to
    /// `kv_rows` of `cache` and read from there.
    pub(super) fn attend(
        &mut self,
        pass: &Passing,
        i: usize,
        saved: &mut Saved,
        all: bool,
        kv_rows: Address,
        cache: Option<(Address, Address)>,
    ) -> Result<()> {
        let rows = pass.placed.rows;
        let layer = &self.layers[i];
        let (outputs, projected) = (layer.qkv.group.pitch_out(), layer.keeps_projected());
        let ((q, kv), o_pitch) = (layer.widths(), layer.output.group.pitch_in());
        let post = layer.post_attention_norm().kind != 0;
        let hidden = self.spec.hidden.next_multiple_of(PAD);
        saved.projected = self.take_rows(all && projected, rows, outputs)?;
        self.map(pass, i, 0, saved.a, saved.projected)?;
        saved.qkv.q = self.take_rows(all, rows, q)?.at;
        (saved.qkv.k, saved.qkv.v) = match cache {
            Some(cache) => cache,
            None => (self.take_rows(all, rows, kv)?.at, self.take_rows(all, rows, kv)?.at),
        };
        let shape = self.shape(i, pass.placed);
        self.kernels().qkv_forward(saved.projected, &shape, kv_rows, saved.qkv, rows)?;
        saved.o = self.take_rows(all, rows, o_pitch)?;
        saved.lse = self.take(all, 4 * rows * shape.heads)?;
        let attention = self.attention(i, pass.placed);
        self.kernels().attention_forward(saved.qkv, &attention, saved.o, saved.lse)?;
        saved.attention_output =
            if post && all { self.take_rows(true, rows, hidden)? } else { pass.branches[0] };
        self.map(pass, i, 1, saved.o, saved.attention_output)
    }

    /// Adds attention's branch to the residual stream and runs the MLP.
    pub(super) fn feed_forward(
        &mut self,
        pass: &Passing,
        i: usize,
        mut saved: Saved,
        all: bool,
    ) -> Result<(Saved, Stream)> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let layer = &self.layers[i];
        let attention = Branch {
            y: saved.attention_output,
            bias: layer.output_bias(),
            post: layer.post_attention_norm(),
            scale: layer.scale,
        };
        let (norm, parallel) = (layer.mlp_norm(), layer.parallel);
        let (b_pitch, y_pitch) = (layer.mlp_in.group.pitch_in(), layer.mlp_in.group.pitch_out());
        let h_pitch = layer.down.group.pitch_in();
        let (gate, gated_bias) = ((layer.act, layer.gated, layer.width), layer.mlp_in.group.bias());
        let (bias, post, scale) = (layer.down.group.bias(), layer.post_mlp_norm(), layer.scale);
        saved.middle = if all { self.take(true, 4 * rows * hidden)? } else { saved.x };
        saved.b = self.take_rows(all, rows, b_pitch)?;
        let everything = (rows, Address::NONE);
        if parallel {
            self.kernels().norm_forward(saved.x, everything, None, Address::NONE, (norm, saved.b), hidden)?;
            let nothing = NormAt::default();
            self.kernels().norm_forward(
                saved.x,
                everything,
                Some(attention),
                saved.middle,
                (nothing, Rows::NONE),
                hidden,
            )?;
        } else {
            self.kernels().norm_forward(
                saved.x,
                everything,
                Some(attention),
                saved.middle,
                (norm, saved.b),
                hidden,
            )?;
        }
        saved.hidden = self.take_rows(all, rows, y_pitch)?;
        self.map(pass, i, 2, saved.b, saved.hidden)?;
        let h = self.take_rows(false, rows, h_pitch)?;
        self.kernels().act_forward((saved.hidden, gated_bias), gate, h, rows)?;
        let padded = hidden.next_multiple_of(PAD);
        saved.mlp_output =
            if post.kind != 0 && all { self.take_rows(true, rows, padded)? } else { pass.branches[1] };
        self.map(pass, i, 3, h, saved.mlp_output)?;
        let pending = Some(Branch { y: saved.mlp_output, bias, post, scale });
        Ok((saved, Stream { x: saved.middle, pending }))
    }

    /// Returns the residual stream after the last block, f32 `[rows, hidden]`, and what the blocks saved.
    pub(super) fn stream(
        &mut self,
        pass: &Passing,
        keep: Keeping,
        recompute: bool,
    ) -> Result<(Address, Vec<Saved>)> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        let x = self.take(true, 4 * rows * hidden)?;
        self.embed(pass.placed, x)?;
        let mut stream = Stream { x, pending: None };
        let mut blocks = Vec::with_capacity(self.layers.len());
        let start = self.temp.mark();
        for i in 0..self.layers.len() {
            let input = stream.x;
            let (saved, next) = if recompute {
                let (_, next) = self.block_from(pass, i, input)?;
                (Saved { x: input, ..Saved::default() }, next)
            } else {
                self.block(pass, i, stream, keep)?
            };
            blocks.push(saved);
            stream = next;
            self.temp.reset(start)?;
        }
        // When a tape keeps the inputs of the blocks, the sum needs memory of its own.
        if keep == Keeping::All {
            return Ok((self.settled(pass, stream)?.x, blocks));
        }
        let (everything, nothing) = ((rows, Address::NONE), (NormAt::default(), Rows::NONE));
        self.kernels().norm_forward(stream.x, everything, stream.pending, stream.x, nothing, hidden)?;
        Ok((stream.x, blocks))
    }

    /// Adds the pending branch to the stream, in newly taken memory that is kept.
    fn settled(&mut self, pass: &Passing, stream: Stream) -> Result<Stream> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        if stream.pending.is_none() {
            return Ok(stream);
        }
        let x = self.take(true, 4 * rows * hidden)?;
        let nothing = NormAt::default();
        let rows = (rows, Address::NONE);
        self.kernels().norm_forward(stream.x, rows, stream.pending, x, (nothing, Rows::NONE), hidden)?;
        Ok(Stream { x, pending: None })
    }

    /// Runs block `i` on an input that must not change, and saves nothing.
    fn block_from(&mut self, pass: &Passing, i: usize, x: Address) -> Result<(Saved, Stream)> {
        let (rows, hidden) = (pass.placed.rows, self.spec.hidden);
        // The block adds attention's branch in place, so it runs on a copy.
        let copy = self.temp.take(4 * rows * hidden)?;
        let bytes = 4 * rows * hidden;
        self.device.copy(copy, x, [bytes, bytes], bytes, 1)?;
        let (saved, stream) = self.block(pass, i, Stream { x: copy, pending: None }, Keeping::Nothing)?;
        Ok((saved, self.settled(pass, stream)?))
    }
}
