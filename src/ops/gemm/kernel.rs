//! Micro-kernels, which compute a register tile of `C` from one panel of each operand, and their selection.

use std::ops::Range;

use super::isa::Isa;
use super::operand::{Operand, Precision};
use super::tile::{Part, Tile, Word, Work};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, fixed, fixed_avx2};
#[cfg(target_arch = "aarch64")]
use super::{neon, neon_bf16, neon_i8mm};
use crate::weights::Elements;

/// A micro-kernel and the panels it takes: `a [steps][mr]`, `b [steps][nr]` words of 32 bits.
pub(super) struct Kernel {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) word: Word,
    /// Maximum number of elements of `k` in a block. Except for tiles, a panel of `B` fits the L1 cache.
    pub(super) max_kc: usize,
    /// The packing that may be used.
    #[cfg(target_arch = "x86_64")]
    pub(super) packing: Packing,
    tile: Tile,
    /// The same tile for a right operand that is not packed: f32 numbers, the lanes of a step side by side.
    in_place: Option<Tile>,
}

/// The vector code that packs an operand.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Plain Rust.
    Plain,
    /// AVX2.
    Avx2,
    /// AVX-512F/BW/VL, and BF16 for pairs.
    Avx512,
}

impl Kernel {
    /// Selects the kernel for an `[m, n]` product; small sizes get smaller tiles, with the same sums.
    pub(super) fn select(isa: Isa, precision: Precision, m: usize, n: usize) -> Self {
        let _ = n;
        let word = word_of(isa, precision);
        #[cfg(target_arch = "x86_64")]
        if word.tiled() {
            let (mr, nr) = (if m <= 16 { 16 } else { 32 }, if n <= 16 { 16 } else { 32 });
            // Panels come from the second-level cache; passing over the output less often is worth more.
            let max_kc = if word == Word::Tiles { 1280 } else { 384 };
            return Self {
                mr,
                nr,
                word,
                max_kc,
                packing: Packing::Avx512,
                tile: amx::tile(mr, nr),
                in_place: None,
            };
        }
        #[cfg(target_arch = "x86_64")]
        if word == Word::Fixed && isa < Isa::Avx512Vnni {
            let mr = if m == 1 { 1 } else { 6 };
            return Self {
                mr,
                nr: 16,
                word,
                max_kc: 512,
                packing: Packing::Avx2,
                tile: fixed_avx2::tile(mr),
                in_place: None,
            };
        }
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            let (mr, nv) = (avx512::best_rows(m), if n <= 16 { 1 } else { 2 });
            let (tile, max_kc) = match word {
                Word::F32 => (avx512::f32_tile(mr, nv), 256),
                Word::Bf16 => (avx512::bf16_tile(mr, nv), 512),
                _ => (fixed::tile(mr, nv), 512),
            };
            let in_place = (word == Word::F32).then(|| avx512::f32_tile_in_place(mr, nv));
            return Self { mr, nr: 16 * nv, word, max_kc, packing: Packing::Avx512, tile, in_place };
        }
        #[cfg(target_arch = "aarch64")]
        if isa >= Isa::Neon {
            let (mr, nr, tile) = match word {
                Word::Quads => neon_bf16::tile(m),
                Word::Digits => neon_i8mm::tile(m),
                _ => neon::tile(m),
            };
            let max_kc = if word == Word::F32 { 256 } else { 512 };
            let in_place = if word == Word::F32 { neon::tile_in_place(mr) } else { None };
            return Self { mr, nr, word, max_kc, tile, in_place };
        }
        let _ = m;
        let (mr, tile): (usize, Tile) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if m == 1 => (1, avx2::tile(1)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, avx2::tile(6)),
            _ if m == 1 => (1, tile_portable::<1>),
            _ => (4, tile_portable::<4>),
        };
        Self {
            mr,
            nr: 16,
            word,
            max_kc: 256,
            #[cfg(target_arch = "x86_64")]
            packing: if isa == Isa::Avx2 { Packing::Avx2 } else { Packing::Plain },
            tile,
            #[cfg(target_arch = "x86_64")]
            in_place: (isa == Isa::Avx2).then(|| avx2::tile_in_place(mr)),
            #[cfg(not(target_arch = "x86_64"))]
            in_place: None,
        }
    }

    /// Returns the state that this thread must hold during its runs.
    pub(super) fn ready(&self) -> Ready {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: tiles are selected only where the processor and the system allow them.
        return self.word.tiled().then(|| unsafe { amx::Tiles::ready() });
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Writes (or adds to) the `[rows, columns]` corner of a tile at `c`.
    ///
    /// # Safety
    /// There must be one part, or any number for tiles. The panels of each must hold its steps, with `rows <= mr` and `columns <= nr`, and the corner must lie in memory
    /// that this thread may write (and read, when accumulating). The thread must hold the result of [`Kernel::ready`].
    pub(super) unsafe fn run(&self, work: Work) {
        // SAFETY: the caller guarantees this; `select` only chose what the processor has.
        unsafe { (self.tile)(work) }
    }

    /// Returns where a panel of `nr` lanes from `first` on begins over `k`, if it can be multiplied in place.
    pub(super) fn in_place<'a>(&self, b: &Operand<'a>, first: usize, k: &Range<usize>) -> Option<&'a [f32]> {
        match b.data {
            Elements::F32(x) if b.lane_stride == 1 && first + self.nr <= b.lanes => {
                self.in_place.and(x.get(k.start * b.k_stride + first..))
            }
            _ => None,
        }
    }

    /// Like [`Kernel::run`], for a right operand in place.
    ///
    /// # Safety
    /// As [`Kernel::run`]. The right operand begins where [`Kernel::in_place`] said.
    pub(super) unsafe fn run_in_place(&self, work: Work) {
        // SAFETY: as above.
        unsafe { self.in_place.unwrap_or(self.tile)(work) }
    }
}

/// Returns the content of a product's panel words.
fn word_of(isa: Isa, precision: Precision) -> Word {
    match precision {
        Precision::Bf16 if isa == Isa::Amx => Word::Tiles,
        Precision::Split if isa == Isa::Amx => Word::SplitTiles,
        Precision::Bf16 if isa == Isa::Avx512Bf16 => Word::Bf16,
        Precision::Bf16 if isa == Isa::NeonBf16 => Word::Quads,
        Precision::Bf16 if isa.fixes_bf16() => Word::Fixed,
        Precision::Fixed if isa >= Isa::Avx2 => Word::Fixed,
        Precision::Fixed if isa.has_fixed() => Word::Digits,
        _ => Word::F32,
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) type Ready = Option<amx::Tiles>;
/// There is no state to hold.
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Ready = Option<()>;

const NR: usize = 16;

/// The portable tile; `FMA` is set where the target fuses multiply and add in hardware.
///
/// # Safety
/// Same as [`Kernel::run`].
#[inline(always)]
unsafe fn tile_body<const MR: usize, const FMA: bool>(work: Work) {
    let Work { parts, c, stride, rows, columns, accumulate, .. } = work;
    let Part { steps, a, b } = parts[0];
    let mut sums = [[0f32; NR]; MR];
    for step in 0..steps {
        // SAFETY: the panels hold `steps` steps of `MR` and `NR` words, which are f32 bits for this kernel.
        let (a, b) =
            unsafe { (&*a.add(step * MR).cast::<[f32; MR]>(), &*b.add(step * NR).cast::<[f32; NR]>()) };
        for (sums, &x) in sums.iter_mut().zip(a) {
            for (sum, &y) in sums.iter_mut().zip(b) {
                *sum = if FMA { x.mul_add(y, *sum) } else { x * y + *sum };
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(rows) {
        for (column, &sum) in sums.iter().enumerate().take(columns) {
            // SAFETY: the caller guarantees that the corner is writable.
            unsafe {
                let to = c.add(row * stride + column);
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}

/// # Safety
/// Same as [`Kernel::run`].
unsafe fn tile_portable<const MR: usize>(work: Work) {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    // SAFETY: the caller's guarantees are passed on.
    unsafe { tile_body::<MR, FMA>(work) }
}
