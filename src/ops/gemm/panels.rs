//! Products in AMX tiles of panels that the caller packs itself and keeps: attention multiplies the same keys and values by
//! many blocks of queries, and writes its weights as panels at once.
//!
//! A panel has 32 lanes and is a slice of [`Chunk`]s, each of 32 elements of `k`. On the left a chunk holds for each lane 16
//! words of pairs, on the right for each pair the words of the 32 lanes.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::amx::Tiles;
use super::avx512_pack::transpose;
use super::isa::Isa;
use super::kernel::Kernel;
use super::operand::{Operand, Precision, Side};
use super::pack;
use super::tile::{Part, Place, Work};

/// Lanes of a panel, and elements of `k` in a chunk.
pub const SIDE: usize = 32;

/// Words of a chunk.
const WORDS: usize = SIDE * SIDE / 2;

/// 32 lanes times 32 bf16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Chunk(pub [u32; WORDS]);

impl Chunk {
    /// A chunk of zeros.
    pub const ZERO: Self = Self([0; WORDS]);
}

/// 32 rows times 32 columns of sums.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Square(pub [f32; SIDE * SIDE]);

impl Square {
    /// A square of zeros.
    pub const ZERO: Self = Self([0.0; SIDE * SIDE]);

    /// Returns a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.0[row * SIDE..(row + 1) * SIDE]
    }
}

/// This thread's tile registers, ready for products of panels.
pub struct Tiler {
    /// For at most 16 rows, and for more.
    kernels: [Kernel; 2],
    parts: RefCell<Vec<Part>>,
    _ready: Option<Tiles>,
    /// The registers are those of one thread.
    _thread: PhantomData<*const ()>,
}

impl Tiler {
    /// Whether this process uses tiles.
    pub fn exists() -> bool {
        Isa::detected() == Isa::Amx
    }

    /// Returns `None` where this process does not use tiles. No other product may run on this thread while the result
    /// lives.
    pub fn new() -> Option<Self> {
        if !Self::exists() {
            return None;
        }
        let kernels = [SIDE / 2, SIDE].map(|rows| Kernel::select(Isa::Amx, Precision::Bf16, rows, SIDE));
        let ready = kernels[0].ready();
        Some(Self { kernels, parts: RefCell::default(), _ready: ready, _thread: PhantomData })
    }

    /// Packs the lanes from `first` on as a left panel; missing lanes and the rest of the last chunk are zero.
    ///
    /// # Panics
    /// Panics if `to` does not have the chunks of `from.k`.
    pub fn left(&self, from: &Operand, first: usize, to: &mut [Chunk]) {
        self.pack(Side::Left, from, first, to);
    }

    /// Like [`Tiler::left`], as a right panel.
    ///
    /// # Panics
    /// Same as [`Tiler::left`].
    pub fn right(&self, from: &Operand, first: usize, to: &mut [Chunk]) {
        self.pack(Side::Right, from, first, to);
    }

    fn pack(&self, side: Side, from: &Operand, first: usize, to: &mut [Chunk]) {
        let words = to.len() * WORDS;
        // SAFETY: a chunk is `WORDS` words without padding; `pack::panel` writes all of them and no uninitialised ones.
        let to = unsafe { std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<MaybeUninit<u32>>(), words) };
        pack::panel(&self.kernels[1], side, from, first, SIDE, 0..from.k, to);
    }

    /// Computes the first `rows` rows of `Σ A·B` over pairs of a left and a right panel.
    ///
    /// # Panics
    /// Panics if the panels of a pair differ in length, or there are more than 32 rows.
    pub fn multiply(&self, pairs: &[(&[Chunk], &[Chunk])], out: &mut Square, rows: usize) {
        assert!(rows <= SIDE && pairs.iter().all(|(a, b)| a.len() == b.len()), "panels of a product");
        let narrow = rows <= SIDE / 2;
        let mut parts = self.parts.borrow_mut();
        parts.clear();
        let words = |chunk: &[Chunk]| chunk.as_ptr().cast::<u32>();
        for (a, b) in pairs.iter().filter(|(a, _)| !a.is_empty()) {
            if narrow {
                // The first 16 lanes of each chunk.
                let chunk =
                    |(a, b): (&Chunk, &Chunk)| Part { steps: SIDE / 2, a: a.0.as_ptr(), b: b.0.as_ptr() };
                parts.extend(a.iter().zip(*b).map(chunk));
            } else {
                parts.push(Part { steps: a.len() * SIDE / 2, a: words(a), b: words(b) });
            }
        }
        if parts.is_empty() {
            out.0.fill(0.0);
            return;
        }
        let (c, rows) = (out.0.as_mut_ptr(), if narrow { SIDE / 2 } else { SIDE });
        // SAFETY: each part has `steps / 16` chunks of both panels, `out` holds the whole tile, and the tiles are ready.
        unsafe {
            self.kernels[usize::from(!narrow)].run(Work {
                parts: &parts,
                c,
                stride: SIDE,
                rows,
                columns: SIDE,
                accumulate: false,
                place: Place::default(),
            });
        }
    }

    /// Writes `from` with rows and columns exchanged.
    pub fn transpose(&self, from: &Square, to: &mut Square) {
        // SAFETY: the processor has AMX, and with it AVX-512 (`Isa::present`).
        unsafe { transpose_square(from, to) }
    }
}

/// # Safety
/// The processor must have AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_square(from: &Square, to: &mut Square) {
    for row in (0..SIDE).step_by(16) {
        for column in (0..SIDE).step_by(16) {
            // SAFETY: 16 numbers of row `row + i` from `column` on are inside the square.
            let rows = std::array::from_fn(|i| unsafe {
                _mm512_loadu_si512(from.0[(row + i) * SIDE + column..].as_ptr().cast())
            });
            for (i, words) in transpose(rows).into_iter().enumerate() {
                // SAFETY: as above, of row `column + i` from `row` on.
                unsafe { _mm512_storeu_si512(to.0[(column + i) * SIDE + row..].as_mut_ptr().cast(), words) };
            }
        }
    }
}
