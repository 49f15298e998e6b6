//! What all micro-kernels share: how they are called, and the words of their panels.

use half::bf16;

/// What a micro-kernel works on.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// Steps that both panels hold.
    pub(super) steps: usize,
    /// The panel of the left operand.
    pub(super) a: *const u32,
    /// The panel of the right operand.
    pub(super) b: *const u32,
    /// The corner of a tile of `C`.
    pub(super) c: *mut f32,
    /// Numbers from one row of `C` to the next.
    pub(super) stride: usize,
    /// Rows of the corner.
    pub(super) rows: usize,
    /// Columns of the corner.
    pub(super) columns: usize,
    /// Whether the sums are added to `C` or take its place.
    pub(super) accumulate: bool,
}

/// A register tile, see [`Kernel::run`](super::kernel::Kernel::run).
pub(super) type Tile = unsafe fn(Work);

/// What the words of a panel hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// An f32.
    F32,
    /// A pair of bf16 that are neighbours in `k`.
    Bf16,
    /// A pair of 16-bit integers that are neighbours in `k`; behind each chunk of [`CHUNK`] numbers stands one step more,
    /// the f32 scales of its lanes.
    Fixed,
    /// As `Bf16` on the right. On the left, for each 16 pairs of `k` a lane's 16 words beside each other, lane by lane.
    /// Steps come in sixteens.
    Tiles,
    /// As `Tiles`, of numbers in two bf16 terms: three numbers' words for one.
    SplitTiles,
}

/// Numbers that share a scale in fixed point, or are split together.
pub(super) const CHUNK: usize = 64;

impl Word {
    /// Steps of `k` numbers, those of scales with them.
    pub(super) fn steps(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Bf16 => k.div_ceil(2),
            Self::Fixed => k.div_ceil(2) + k.div_ceil(CHUNK),
            Self::Tiles => k.div_ceil(32) * 16,
            Self::SplitTiles => k / CHUNK * Self::Tiles.steps(3 * CHUNK) + Self::Tiles.steps(3 * (k % CHUNK)),
        }
    }

    /// Whether AMX multiplies it.
    pub(super) fn tiled(self) -> bool {
        matches!(self, Self::Tiles | Self::SplitTiles)
    }
}

/// Two neighbours in `k` as one word, the earlier in the low half.
pub(super) fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}
