//! Micro-kernels: a register tile of `C` from one panel of each operand, and the choice between them.

use std::sync::OnceLock;

use super::Precision;
#[cfg(target_arch = "x86_64")]
use super::{avx512, fixed};

/// The instruction sets there are kernels for, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, vectorised by the compiler for the target's baseline.
    Portable,
    /// The portable kernel compiled with 256-bit fused multiply-add.
    Avx2,
    /// 512-bit fused multiply-add.
    Avx512,
    /// And dot products of pairs, bf16 and 16-bit integers (no processor has the first alone).
    Avx512Bf16,
}

impl Isa {
    /// The best of this processor, detected once.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(Self::detect)
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if avx512 && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni") {
            Self::Avx512Bf16
        } else if avx512 {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self::Portable
    }

    /// All sets this processor has.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16]
            .into_iter()
            .filter(|isa| *isa <= Self::detected())
    }

    /// A name for cache keys and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }
}

/// `(steps, a, b, c, stride of c, rows, columns, accumulate)`, see [`Kernel::run`].
pub(super) type Tile = unsafe fn(usize, *const u32, *const u32, *mut f32, usize, usize, usize, bool);

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
}

/// Numbers that share a scale in fixed point.
pub(super) const CHUNK: usize = 64;

impl Word {
    fn of(isa: Isa, precision: Precision) -> Self {
        match precision {
            Precision::Bf16 if isa == Isa::Avx512Bf16 => Self::Bf16,
            Precision::Fixed if isa == Isa::Avx512Bf16 => Self::Fixed,
            _ => Self::F32,
        }
    }

    /// Steps of `k` numbers, those of scales with them.
    pub(super) fn steps(self, k: usize) -> usize {
        match self {
            Self::F32 => k,
            Self::Bf16 => k.div_ceil(2),
            Self::Fixed => k.div_ceil(2) + k.div_ceil(CHUNK),
        }
    }
}

/// A micro-kernel and the panels it wants: `a [steps][mr]`, `b [steps][nr]` words of 32 bits.
pub(super) struct Kernel {
    pub(super) mr: usize,
    pub(super) nr: usize,
    pub(super) word: Word,
    /// Most elements of `k` in a block: a panel of `B` fits the L1 cache.
    pub(super) max_kc: usize,
    /// Whether the AVX-512 packing may be used.
    #[cfg(target_arch = "x86_64")]
    pub(super) wide: bool,
    tile: Tile,
}

impl Kernel {
    /// The kernel for an `[m, n]` product; small sizes get smaller tiles, with the same sums.
    pub(super) fn select(isa: Isa, precision: Precision, m: usize, n: usize) -> Self {
        let _ = n;
        let word = Word::of(isa, precision);
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            let (mr, nv) = (avx512::best_rows(m), if n <= 16 { 1 } else { 2 });
            let (tile, max_kc) = match word {
                Word::F32 => (avx512::f32_tile(mr, nv), 256),
                Word::Bf16 => (avx512::bf16_tile(mr, nv), 512),
                Word::Fixed => (fixed::tile(mr, nv), 512),
            };
            return Self { mr, nr: 16 * nv, word, max_kc, wide: true, tile };
        }
        let _ = m;
        let (mr, tile): (usize, Tile) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if m == 1 => (1, tile_avx2::<1>),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, tile_avx2::<6>),
            _ if m == 1 => (1, tile_portable::<1>),
            _ => (4, tile_portable::<4>),
        };
        Self {
            mr,
            nr: 16,
            word,
            max_kc: 256,
            #[cfg(target_arch = "x86_64")]
            wide: false,
            tile,
        }
    }

    /// Writes (or adds to) the `[rows, columns]` corner of a tile at `c`.
    ///
    /// # Safety
    /// The panels hold `steps` steps, `rows <= mr`, `columns <= nr`, and the corner lies in memory this thread may
    /// write (and read, when accumulating).
    #[allow(clippy::too_many_arguments, reason = "those of a BLAS micro-kernel")]
    pub(super) unsafe fn run(
        &self,
        steps: usize,
        a: *const u32,
        b: *const u32,
        c: *mut f32,
        stride: usize,
        rows: usize,
        columns: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise; `select` only chose what the processor has.
        unsafe { (self.tile)(steps, a, b, c, stride, rows, columns, accumulate) }
    }
}

const NR: usize = 16;

/// The portable tile; `FMA` where the target fuses multiply and add in hardware.
///
/// # Safety
/// As [`Kernel::run`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "those of a BLAS micro-kernel")]
unsafe fn tile_body<const MR: usize, const FMA: bool>(
    steps: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
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
            // SAFETY: the corner is writable by the caller's promise.
            unsafe {
                let to = c.add(row * stride + column);
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}

/// # Safety
/// As [`Kernel::run`].
#[allow(clippy::too_many_arguments, reason = "those of a BLAS micro-kernel")]
unsafe fn tile_portable<const MR: usize>(
    steps: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    // SAFETY: passed on.
    unsafe { tile_body::<MR, FMA>(steps, a, b, c, stride, rows, columns, accumulate) }
}

/// # Safety
/// As [`Kernel::run`], on a processor with AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::too_many_arguments, reason = "those of a BLAS micro-kernel")]
unsafe fn tile_avx2<const MR: usize>(
    steps: usize,
    a: *const u32,
    b: *const u32,
    c: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    accumulate: bool,
) {
    // SAFETY: passed on.
    unsafe { tile_body::<MR, true>(steps, a, b, c, stride, rows, columns, accumulate) }
}
