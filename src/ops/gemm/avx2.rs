//! AVX2 micro-kernels. A 6×16 tile keeps 12 accumulators, two vectors of `B` and a broadcast of `A` in the 16 registers.
//! Every sum is one chain of fused multiply-adds in order of `k`.

use std::arch::x86_64::*;

use super::strip::prefetch;
use super::tile::{Part, Place, Tile, Work};

/// Returns the kernel of a tile of `mr` (1 or 6) rows and 16 columns.
pub(super) fn tile(mr: usize) -> Tile {
    if mr == 1 { body::<1, false> } else { body::<6, false> }
}

/// Like [`tile`], for a right operand in place.
pub(super) fn tile_in_place(mr: usize) -> Tile {
    if mr == 1 { body::<1, true> } else { body::<6, true> }
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn body<const MR: usize, const IN_PLACE: bool>(work: Work) {
    let Part { steps, mut a, mut b } = work.parts[0];
    let Place { step, ahead } = work.place;
    let mut sums = [[_mm256_setzero_ps(); 2]; MR];
    for _ in 0..steps {
        // SAFETY: the panels hold `steps` steps of `MR` and 16 words, and so does an operand in place.
        unsafe {
            let y = [_mm256_loadu_ps(b.cast()), _mm256_loadu_ps(b.add(8).cast())];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(r).cast());
                sums[0] = _mm256_fmadd_ps(x, y[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(x, y[1], sums[1]);
            }
            a = a.add(MR);
            if IN_PLACE {
                prefetch(b.wrapping_add(ahead));
                b = b.wrapping_add(step);
            } else {
                b = b.add(16);
            }
        }
    }
    // SAFETY: the caller guarantees this.
    unsafe { store(sums, &work) };
}

/// Writes the sums of a tile, or adds them.
///
/// # Safety
/// Same as `Kernel::run`; the processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store<const MR: usize>(sums: [[__m256; 2]; MR], work: &Work) {
    let Work { c, stride, rows, columns, accumulate, .. } = *work;
    if rows < MR || columns < 16 {
        // SAFETY: the caller guarantees this.
        return unsafe { store_corner(&sums, work) };
    }
    // The sums of a whole tile never leave the registers.
    for (row, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller guarantees that the tile may be written.
            unsafe {
                let to = c.add(row * stride + 8 * v);
                let sum = if accumulate { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum };
                _mm256_storeu_ps(to, sum);
            }
        }
    }
}

/// Writes the corner of a tile, or adds to it.
///
/// # Safety
/// Same as [`store`].
#[cold]
#[target_feature(enable = "avx2")]
unsafe fn store_corner<const MR: usize>(sums: &[[__m256; 2]; MR], work: &Work) {
    let Work { c, stride, rows, columns, accumulate, .. } = *work;
    for (row, sums) in sums.iter().enumerate().take(rows) {
        let mut line = [0f32; 16];
        // SAFETY: `line` holds both vectors; the caller guarantees that the corner may be written.
        unsafe {
            let to = c.add(row * stride);
            _mm256_storeu_ps(line.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(line.as_mut_ptr().add(8), sums[1]);
            for (column, &sum) in line.iter().enumerate().take(columns) {
                let to = to.add(column);
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}
