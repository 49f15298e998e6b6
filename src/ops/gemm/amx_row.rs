//! One row times bf16 weights in AMX tiles. The weights are the left operand of the instruction, 16 of their rows to a
//! register, and the row of `A` is a right operand of one column. The instruction sums in the same order either way.

use std::arch::asm;
use std::ops::Range;

use half::bf16;

use super::amx::{Shapes, Tiles};
use super::operand::Operand;
use super::packed::Packed;

/// Registers 0 and 1 hold 16 sums each, 4 and 5 hold 16 rows of weights, 6 holds 16 pairs of `A`.
static SHAPES: Shapes = Shapes::new([4, 4, 64, 64, 64, 64, 4, 64]);

/// Computes 32 outputs `lanes`.
///
/// # Safety
/// Same as `one_row::run`, for these outputs.
pub(super) unsafe fn group(
    weights: &[bf16],
    a: &Packed,
    b: &Operand,
    lanes: Range<usize>,
    out: *mut f32,
    accumulate: bool,
) {
    // SAFETY: tile words are selected only where the processor and the system allow tiles.
    let _ready = unsafe { Tiles::shaped(&SHAPES) };
    for block in 0..a.cut.blocks() {
        let k = a.cut.k_range(block);
        let first = weights[lanes.start * b.lane_stride + k.start..].as_ptr();
        // SAFETY: `Operand::strided` checked that the lanes are inside the weights, and `k` is a multiple of 32. The
        // panel of `A` holds as many chunks, of which each begins with the words of its first row.
        unsafe {
            sums(
                first,
                2 * b.lane_stride,
                k.len() / 32,
                a.panel(block, 0).as_ptr(),
                out,
                accumulate || block > 0,
            );
        }
    }
}

/// Multiplies 32 rows of weights, `pitch` bytes apart, by `chunks` times 32 elements of `A`.
///
/// # Safety
/// All of it must be readable, `out` must have room for 32 numbers, and the tiles must have these shapes.
unsafe fn sums(
    weights: *const bf16,
    pitch: usize,
    chunks: usize,
    a: *const u32,
    out: *mut f32,
    accumulate: bool,
) {
    // Prefetching the next rows makes it a fifth slower.
    // SAFETY: the caller guarantees this.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "test {add:e}, {add:e}",
            "jz 2f",
            "tileloadd tmm0, [{out} + {word}*1]",
            "tileloadd tmm1, [{out} + {word}*1 + 64]",
            "2:",
            "test {chunks}, {chunks}",
            "jz 4f",
            "3:",
            "tileloadd tmm6, [{a} + {word}*1]",
            "tileloadd tmm4, [{weights} + {pitch}*1]",
            "tileloadd tmm5, [{below} + {pitch}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "add {a}, 1024",
            "add {weights}, 64",
            "add {below}, 64",
            "dec {chunks}",
            "jnz 3b",
            "4:",
            "tilestored [{out} + {word}*1], tmm0",
            "tilestored [{out} + {word}*1 + 64], tmm1",
            add = in(reg) u32::from(accumulate),
            chunks = inout(reg) chunks => _,
            a = inout(reg) a => _,
            weights = inout(reg) weights => _,
            below = inout(reg) weights.wrapping_byte_add(16 * pitch) => _,
            pitch = in(reg) pitch,
            word = in(reg) 4_usize,
            out = in(reg) out,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack)
        );
    }
}
