//! Definitions shared by all micro-kernels: how they are called, and the words of their panels.

use half::bf16;

/// A panel of each operand.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Part {
    /// Number of steps that both panels hold.
    pub(super) steps: usize,
    /// The panel of the left operand.
    pub(super) a: *const u32,
    /// The panel of the right operand.
    pub(super) b: *const u32,
}

/// The arguments of a micro-kernel.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    /// The panels whose products are summed. Kernels other than AMX's take one part.
    pub(super) parts: &'a [Part],
    /// The corner of a tile of `C`.
    pub(super) c: *mut f32,
    /// Distance from one row of `C` to the next, in numbers.
    pub(super) stride: usize,
    /// Number of rows of the corner.
    pub(super) rows: usize,
    /// Number of columns of the corner.
    pub(super) columns: usize,
    /// Whether the sums are added to `C` or replace it.
    pub(super) accumulate: bool,
    /// Where the right operand lies, for a kernel that reads it in place.
    pub(super) place: Place,
}

impl Work<'_> {
    /// Divides a row of tiles of `width` columns into its tiles.
    #[inline(always)]
    pub(super) fn tiles(self, width: usize) -> impl Iterator<Item = Self> {
        (0..self.columns).step_by(width).map(move |first| Self {
            c: self.c.wrapping_add(first),
            columns: (self.columns - first).min(width),
            ..self
        })
    }
}

/// Where a right operand lies that is read in place: words from one step to the next, and from there to what is read
/// next.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// The distance from one step to the next.
    pub(super) step: usize,
    /// The distance to what the next tile reads, which is asked for.
    pub(super) ahead: usize,
}

/// A register tile; see [`Kernel::run`](super::kernel::Kernel::run).
pub(super) type Tile = unsafe fn(Work);

/// The content of a panel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// An f32.
    F32,
    /// A pair of bf16 that are neighbours in `k`.
    Bf16,
    /// A pair of 16-bit integers that are neighbours in `k`. Each chunk of [`CHUNK`] numbers is followed by one more
    /// step, which holds the f32 scales of its lanes.
    Fixed,
    /// On the right, the same as `Bf16`. On the left, for each 16 pairs of `k`, the 16 words of a lane are contiguous,
    /// lane by lane. The number of steps is a multiple of 16.
    Tiles,
    /// Like `Tiles`, for numbers split into two bf16 terms; each number takes the words of three.
    SplitTiles,
    /// Four bf16 that are neighbours in `k`, in two words of a lane: two steps, in each half of which lanes alternate with
    /// words (`quads`).
    Quads,
    /// 16-bit integers as two digits of eight bits, with the scales of `Fixed` (`digits`).
    Digits,
}

/// Number of elements that share a scale in fixed point, or are split together.
pub(super) const CHUNK: usize = 64;

impl Word {
    /// Returns the number of steps for `k` numbers, including the steps that hold scales.
    pub(super) fn steps(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Bf16 => k.div_ceil(2),
            Self::Fixed => k.div_ceil(2) + k.div_ceil(CHUNK),
            Self::Tiles => k.div_ceil(32) * 16,
            Self::Quads => k.div_ceil(4) * 2,
            Self::Digits => k.div_ceil(8) * 4 + k.div_ceil(CHUNK),
            Self::SplitTiles => k / CHUNK * Self::Tiles.steps(3 * CHUNK) + Self::Tiles.steps(3 * (k % CHUNK)),
        }
    }

    /// Whether AMX multiplies these words.
    pub(super) fn tiled(self) -> bool {
        matches!(self, Self::Tiles | Self::SplitTiles)
    }
}

/// Packs two neighbours in `k` into one word, the earlier in the low half.
pub(super) fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}
