//! A few rows times bf16 weights in AMX tiles, as in decoding several sequences. As for one row, the weights are the left
//! operand of the instruction and are read where they are stored. The rows of `A` are the columns of its right operand. The
//! instruction sums in the same order either way.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::amx::Tiles;
use super::avx512_pack::transpose;
use super::operand::Operand;
use super::packed::Packed;

/// Most rows: with more, packing the weights is faster.
pub(super) const MOST: usize = 64;

/// Rows (or columns) of a tile register, and words of its rows.
const SIDE: usize = 16;
/// Words of a tile register.
const WORDS: usize = SIDE * SIDE;
/// Outputs of a group, and rows of `A` of a pass over its weights.
const GROUP: usize = 2 * SIDE;

/// Returns the rows of `A` as right operands: for each block of `k`, each 16 rows and each 32 elements of `k`, the words of
/// the 16 rows beside each other.
pub(super) fn columns(a: &Packed) -> Vec<u32> {
    let (tiles, mr) = (a.lanes.div_ceil(SIDE), a.cut.mr);
    let mut words = Vec::with_capacity(tiles * SIDE * a.cut.k.div_ceil(2));
    for block in 0..a.cut.blocks() {
        for first in (0..tiles * SIDE).step_by(SIDE) {
            let panel = a.panel(block, first / mr);
            for chunk in panel.chunks_exact(SIDE * mr) {
                let from = &chunk[first % mr * SIDE..][..WORDS];
                let at = words.len();
                words.resize(at + WORDS, 0);
                // SAFETY: tile words are selected only where AVX-512 is available; both slices are 16 vectors.
                unsafe { transposed(from, &mut words[at..]) };
            }
        }
    }
    words
}

/// Transposes a tile of words.
///
/// # Safety
/// Both must hold 256 words.
#[target_feature(enable = "avx512f")]
unsafe fn transposed(from: &[u32], to: &mut [u32]) {
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: row `i` is inside the slice.
        *row = unsafe { _mm512_loadu_si512(from.as_ptr().add(SIDE * i).cast()) };
    }
    for (i, column) in transpose(rows).into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(SIDE * i).cast(), column) };
    }
}

/// The sums of a group of outputs: `[32 outputs][32 rows]`.
#[repr(C, align(64))]
struct Sums([f32; GROUP * GROUP]);

/// Computes 32 outputs `lanes` of all rows. Row `i` is written to `out + i·stride`, which points at the first of them.
///
/// # Safety
/// Same as `one_row::run`, for these outputs; `columns` must be those of `a`.
pub(super) unsafe fn group(
    weights: &[bf16],
    (a, columns): (&Packed, &[u32]),
    b: &Operand,
    lanes: Range<usize>,
    (out, stride): (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: tile words are selected only where the processor and the system allow tiles.
    let _ready = unsafe { Tiles::ready() };
    let tiles = a.lanes.div_ceil(SIDE);
    let mut sums = Sums([0.0; GROUP * GROUP]);
    for first in (0..tiles).step_by(2) {
        let rows = (a.lanes - first * SIDE).min(GROUP);
        let out = out.wrapping_add(first * SIDE * stride);
        if accumulate {
            // SAFETY: the window holds these rows of 32 outputs.
            unsafe { gather(out, stride, rows, &mut sums) };
        }
        for block in 0..a.cut.blocks() {
            let k = a.cut.k_range(block);
            // A tile has 8 words for each element of `k`.
            let at = WORDS / GROUP * (tiles * k.start + first * k.len());
            let part = Part {
                weights: weights[lanes.start * b.lane_stride + k.start..].as_ptr(),
                pitch: 2 * b.lane_stride,
                chunks: k.len() / 32,
                a: columns[at..].as_ptr(),
                // The next tile, or the same once more if it is the last.
                next: if rows > SIDE { 4 * WORDS / GROUP * k.len() } else { 0 },
            };
            // SAFETY: `Operand::strided` checked that the lanes are inside the weights, and `k` is a multiple of 32. The
            // columns hold as many chunks of each tile.
            unsafe { multiply(&part, &mut sums, accumulate || block > 0) };
        }
        // SAFETY: as above, and no other task writes these outputs.
        unsafe { scatter(&sums, out, stride, rows) };
    }
}

/// The operands of 32 outputs over a block of `k`.
struct Part {
    weights: *const bf16,
    /// Bytes from one row of weights to the next.
    pitch: usize,
    chunks: usize,
    a: *const u32,
    /// Bytes from the first tile of `A` to the second.
    next: usize,
}

/// # Safety
/// All of the part must be readable, and the tiles must have whole shapes.
unsafe fn multiply(part: &Part, sums: &mut Sums, accumulate: bool) {
    // SAFETY: the caller guarantees this; the sums are 32 rows of 128 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {add:e}, {add:e}",
            "jz 2f",
            "tileloadd tmm0, [{sums} + {line}*1]",
            "tileloadd tmm1, [{sums} + {line}*1 + 64]",
            "tileloadd tmm2, [{sums} + {line}*1 + 2048]",
            "tileloadd tmm3, [{sums} + {line}*1 + 2112]",
            "2:",
            "test {chunks}, {chunks}",
            "jz 5f",
            "cmp {a}, {second}",
            "je 4f",
            "3:",
            "tileloadd tmm6, [{a} + {row}*1]",
            "tileloadd tmm4, [{weights} + {pitch}*1]",
            "tileloadd tmm5, [{below} + {pitch}*1]",
            "tileloadd tmm7, [{second} + {row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 1024",
            "add {second}, 1024",
            "add {weights}, 64",
            "add {below}, 64",
            "dec {chunks}",
            "jnz 3b",
            "jmp 5f",
            "4:",
            "tileloadd tmm6, [{a} + {row}*1]",
            "tileloadd tmm4, [{weights} + {pitch}*1]",
            "tileloadd tmm5, [{below} + {pitch}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "add {a}, 1024",
            "add {weights}, 64",
            "add {below}, 64",
            "dec {chunks}",
            "jnz 4b",
            "5:",
            "tilestored [{sums} + {line}*1], tmm0",
            "tilestored [{sums} + {line}*1 + 64], tmm1",
            "tilestored [{sums} + {line}*1 + 2048], tmm2",
            "tilestored [{sums} + {line}*1 + 2112], tmm3",
            add = in(reg) u32::from(accumulate),
            chunks = inout(reg) part.chunks => _,
            a = inout(reg) part.a => _,
            second = inout(reg) part.a.wrapping_byte_add(part.next) => _,
            weights = inout(reg) part.weights => _,
            below = inout(reg) part.weights.wrapping_byte_add(SIDE * part.pitch) => _,
            pitch = in(reg) part.pitch,
            row = in(reg) 64_usize,
            line = in(reg) 4 * GROUP,
            sums = in(reg) sums.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// Loads the sums from rows of outputs.
///
/// # Safety
/// `from` must point at `rows` rows, `stride` apart, of 32 readable numbers.
#[target_feature(enable = "avx512f")]
unsafe fn gather(from: *const f32, stride: usize, rows: usize, sums: &mut Sums) {
    for first in (0..rows).step_by(SIDE) {
        for half in [0, SIDE] {
            let mut tile = [_mm512_setzero_si512(); SIDE];
            for (i, row) in tile.iter_mut().enumerate().take(rows - first) {
                // SAFETY: the caller guarantees the row.
                *row = unsafe { _mm512_loadu_si512(from.add((first + i) * stride + half).cast()) };
            }
            for (i, output) in transpose(tile).into_iter().enumerate() {
                // SAFETY: row `half + i` of the sums, at 0 or 16.
                unsafe {
                    _mm512_storeu_si512(sums.0.as_mut_ptr().add((half + i) * GROUP + first).cast(), output)
                };
            }
        }
    }
}

/// Writes the sums to rows of outputs.
///
/// # Safety
/// `to` must point at `rows` rows, `stride` apart, of 32 writable numbers.
#[target_feature(enable = "avx512f")]
unsafe fn scatter(sums: &Sums, to: *mut f32, stride: usize, rows: usize) {
    for first in (0..rows).step_by(SIDE) {
        for half in [0, SIDE] {
            let mut tile = [_mm512_setzero_si512(); SIDE];
            for (i, output) in tile.iter_mut().enumerate() {
                // SAFETY: row `half + i` of the sums, at 0 or 16.
                *output =
                    unsafe { _mm512_loadu_si512(sums.0.as_ptr().add((half + i) * GROUP + first).cast()) };
            }
            for (i, row) in transpose(tile).into_iter().enumerate().take(rows - first) {
                // SAFETY: the caller guarantees the row.
                unsafe { _mm512_storeu_si512(to.add((first + i) * stride + half).cast(), row) };
            }
        }
    }
}
