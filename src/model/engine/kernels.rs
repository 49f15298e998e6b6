//! The kernels as functions. Arguments are in the order of the sources, `device/kernels/*.cu`, which describe what the
//! kernels compute.

/// Builds the arguments of a launch.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(Arg::from($arg)),*] };
}

mod attention;
mod matrices;
mod qkv;

pub(super) use self::qkv::Shape;
use crate::device::{Address, Arg, Backend, Kind, Launch, MOST_BLOCKS, Matrix};
use crate::error::Result;
use crate::ops::gated_act::Activation;

/// Threads of a block that handles one row.
const BLOCK: usize = 256;
/// Columns handled by a block of an elementwise kernel.
const COLUMNS: usize = 2048;
/// Queries or keys per attention tile.
pub(super) const TILE: usize = 64;
/// Number of values summed by one block of `square_sums`.
pub(crate) const CHUNK: usize = 16_384;

/// A device, and the storage type of its activations.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a> {
    pub(super) device: &'a dyn Backend,
    pub(super) kind: Kind,
}

/// Rows with a pitch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows {
    pub(super) at: Address,
    pub(super) pitch: usize,
}

impl Rows {
    /// No rows.
    pub(super) const NONE: Self = Self { at: Address::NONE, pitch: 0 };

    pub(super) fn new(at: Address, pitch: usize) -> Self {
        Self { at, pitch }
    }

    /// The rows as an operand of a product.
    fn matrix(self, kind: Kind) -> Matrix {
        Matrix { at: self.at, pitch: self.pitch, kind }
    }

    fn is_some(self) -> bool {
        self.at != Address::NONE
    }
}

/// A norm's parameters on the device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NormAt {
    pub(super) gain: Address,
    pub(super) bias: Address,
    /// 0 none, 1 RMS, 2 layer norm.
    pub(super) kind: i32,
    pub(super) eps: f32,
    /// Number of values normalised together.
    pub(super) size: usize,
    /// Number of gains.
    pub(super) gains: usize,
}

/// A branch that is added to the residual stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Branch {
    pub(super) y: Rows,
    pub(super) bias: Address,
    /// A norm applied to the branch before it is added.
    pub(super) post: NormAt,
    pub(super) scale: f32,
}

/// Cosines and sines `[rows, half]`, and the table row for each row of the batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Angles {
    pub(super) cos: Address,
    pub(super) sin: Address,
    pub(super) half: usize,
    pub(super) rows: Address,
}

/// Queries, keys and values, stored without padding.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Qkv {
    pub(super) q: Address,
    pub(super) k: Address,
    pub(super) v: Address,
}

/// Which queries see which keys, and how scores are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) tiles: Address,
    pub(super) tile_count: usize,
    pub(super) key_tiles: Address,
    pub(super) key_tile_count: usize,
    pub(super) positions: Address,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
    pub(super) softcap: f32,
    pub(super) window: usize,
    /// Arithmetic operations of one product over all visible pairs.
    pub(super) flop: usize,
}

/// Yields the first row and the row count of each launch of a kernel whose grid has rows in its second dimension.
fn runs(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(MOST_BLOCKS).map(move |first| (first, MOST_BLOCKS.min(rows - first)))
}

fn act(act: Activation) -> i32 {
    match act {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::Relu2 => 4,
    }
}

impl Kernels<'_> {
    fn launch(
        &self,
        module: &'static str,
        kernel: &str,
        (grid, block, shared): ([usize; 2], usize, usize),
        args: &[Arg],
        (bytes, flop): (usize, usize),
    ) -> Result<()> {
        let name = format!("{kernel}_{}", self.kind.name());
        self.device.launch(&Launch { module, name: &name, grid, block, shared, args, bytes, flop })
    }

    fn size(&self) -> usize {
        self.kind.size()
    }

    /// Looks up rows of the embedding and of learned positions, as f32.
    pub(super) fn embed(
        &self,
        (tokens, positions): (Address, Address),
        (table, kind, scale): (Address, i32, f32),
        (learned, learned_kind, offset): (Address, i32, usize),
        (rows, hidden): (usize, usize),
        x: Address,
    ) -> Result<()> {
        self.device.launch(&Launch {
            module: "embed",
            name: "embed",
            grid: [rows, 1],
            block: BLOCK,
            shared: 0,
            args: args![tokens, positions, table, kind, scale, learned, learned_kind, offset, hidden, x],
            bytes: 8 * rows * hidden,
            flop: 0,
        })
    }

    /// Computes `x_out = x + branch`, `out = norm(x_out)`.
    pub(super) fn norm_forward(
        &self,
        x: Address,
        (rows, picked): (usize, Address),
        branch: Option<Branch>,
        x_out: Address,
        (norm, out): (NormAt, Rows),
        hidden: usize,
    ) -> Result<()> {
        let Branch { y, bias, post, scale } = branch.unwrap_or_default();
        let args = args![
            x, picked, y.at, y.pitch, bias, post.gain, post.bias, post.kind, post.eps, scale, x_out,
            norm.gain, norm.bias, norm.kind, norm.eps, out.at, out.pitch, hidden,
        ];
        let numbers = 4 + 4 * usize::from(x_out != Address::NONE);
        let stored = usize::from(y.is_some()) + usize::from(out.is_some());
        let bytes = rows * hidden * (numbers + self.size() * stored);
        self.launch("norm", "norm_forward", ([rows, 1], BLOCK, 4 * hidden), args, (bytes, 0))
    }

    /// Computes `dx += ∂norm(x)·(dy + dy2)`, `out = scale·dx`.
    pub(super) fn norm_backward(
        &self,
        (dy, dy2): (Rows, Rows),
        x: Address,
        norm: NormAt,
        dx: Address,
        (scale, out): (f32, Rows),
        (rows, hidden): (usize, usize),
    ) -> Result<()> {
        let args = args![
            dy.at, dy.pitch, dy2.at, dy2.pitch, x, norm.gain, norm.kind, norm.eps, dx, scale, out.at,
            out.pitch, hidden,
        ];
        let stored = 1 + usize::from(dy2.is_some()) + usize::from(out.is_some());
        let bytes = rows * hidden * (12 + self.size() * stored);
        self.launch("norm", "norm_backward", ([rows, 1], BLOCK, 8 * hidden), args, (bytes, 0))
    }

    /// Computes `out = ∂norm(y + bias)·scale·dx`.
    pub(super) fn post_norm_backward(
        &self,
        dx: Address,
        branch: Branch,
        out: Rows,
        (rows, hidden): (usize, usize),
    ) -> Result<()> {
        let Branch { y, bias, post, scale } = branch;
        let args =
            args![dx, scale, y.at, y.pitch, bias, post.gain, post.kind, post.eps, out.at, out.pitch, hidden,];
        let bytes = rows * hidden * (4 + 2 * self.size());
        self.launch("norm", "post_norm_backward", ([rows, 1], BLOCK, 8 * hidden), args, (bytes, 0))
    }

    /// Computes the residual stream's gradient from the weighted slopes of the scored rows.
    pub(super) fn scored_backward(
        &self,
        (slopes, weights, starts, items): (Address, Address, Address, Address),
        x: Address,
        norm: NormAt,
        dx: Address,
        (scale, out): (f32, Rows),
        (rows, hidden): (usize, usize),
    ) -> Result<()> {
        let args = args![
            slopes, weights, starts, items, x, norm.gain, norm.kind, norm.eps, dx, scale, out.at, out.pitch,
            hidden,
        ];
        let bytes = rows * hidden * (8 + 2 * self.size());
        self.launch("norm", "scored_backward", ([rows, 1], BLOCK, 8 * hidden), args, (bytes, 0))
    }

    /// Computes `h = act(gate)∘up`, or `act(y)`.
    pub(super) fn act_forward(
        &self,
        (y, bias): (Rows, Address),
        (kind, gated, width): (Activation, bool, usize),
        h: Rows,
        rows: usize,
    ) -> Result<()> {
        for (first, count) in runs(rows) {
            let (y, h) = (self.behind(y, first), self.behind(h, first));
            let args = args![y.at, y.pitch, bias, act(kind), i32::from(gated), width, h.at, h.pitch];
            let bytes = count * width * self.size() * (2 + usize::from(gated));
            let grid = [h.pitch.div_ceil(COLUMNS).max(1), count];
            self.launch("gated_act", "act_forward", (grid, BLOCK, 0), args, (bytes, 0))?;
        }
        Ok(())
    }

    /// Computes the gradient of [`Kernels::act_forward`], and recomputes `h`.
    pub(super) fn act_backward(
        &self,
        dh: Rows,
        (y, bias): (Rows, Address),
        (kind, gated, width): (Activation, bool, usize),
        (dy, h): (Rows, Rows),
        rows: usize,
    ) -> Result<()> {
        for (first, count) in runs(rows) {
            let [dh, y, dy, h] = [dh, y, dy, h].map(|rows| self.behind(rows, first));
            let args = args![
                dh.at,
                dh.pitch,
                y.at,
                y.pitch,
                bias,
                act(kind),
                i32::from(gated),
                width,
                dy.at,
                dy.pitch,
                h.at,
                h.pitch
            ];
            let bytes = count * width * self.size() * (4 + 2 * usize::from(gated));
            let grid = [width.div_ceil(COLUMNS).max(1), count];
            self.launch("gated_act", "act_backward", (grid, BLOCK, 0), args, (bytes, 0))?;
        }
        Ok(())
    }

    /// The rows after the first `first` ones.
    fn behind(&self, rows: Rows, first: usize) -> Rows {
        Rows { at: rows.at.plus(first * rows.pitch * self.size()), ..rows }
    }

    /// Computes the targets' log-probs from f32 logits, and the weights of the head's rows in their slopes.
    pub(super) fn token_logps(
        &self,
        logits: Rows,
        (bias, scale, softcap): (Address, f32, f32),
        (targets, logps): (Address, Address),
        weights: Rows,
        (rows, vocab): (usize, usize),
    ) -> Result<()> {
        let args = args![
            logits.at,
            logits.pitch,
            bias,
            scale,
            softcap,
            targets,
            logps,
            weights.at,
            weights.pitch,
            vocab,
        ];
        let bytes = rows * vocab * (8 + self.size() * usize::from(weights.is_some()));
        self.launch("token_logps", "token_logps", ([rows, 1], 1024, 0), args, (bytes, 0))
    }

    /// Applies bias, scaling and soft-cap to the logits in place, as the soft-max uses them.
    pub(super) fn shape_logits(
        &self,
        logits: Rows,
        (bias, scale, softcap): (Address, f32, f32),
        (rows, vocab): (usize, usize),
    ) -> Result<()> {
        self.device.launch(&Launch {
            module: "token_logps",
            name: "shape_logits",
            grid: [rows, 1],
            block: BLOCK,
            shared: 0,
            args: args![logits.at, logits.pitch, bias, scale, softcap, vocab],
            bytes: 8 * rows * vocab,
            flop: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_rows_in_order() {
        assert_eq!(runs(3).collect::<Vec<_>>(), [(0, 3)]);
        assert_eq!(runs(0).count(), 0);
        let vocabulary = 128_256;
        let all: Vec<_> = runs(vocabulary).collect();
        assert_eq!(all, [(0, MOST_BLOCKS), (MOST_BLOCKS, vocabulary - MOST_BLOCKS)]);
        assert!(all.iter().all(|(_, count)| *count <= MOST_BLOCKS));
    }
}
