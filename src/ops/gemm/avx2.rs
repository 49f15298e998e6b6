//! AVX2 micro-kernels. A 6×16 tile keeps 12 accumulators, two vectors of `B` and a broadcast of `A` in the 16 registers.
//! Every sum is one chain of fused multiply-adds in order of `k`.

use std::arch::x86_64::*;

use super::tile::{Part, Tile, Work};

/// Returns the kernel of a tile of `mr` (1 or 6) rows and 16 columns.
pub(super) fn tile(mr: usize) -> Tile {
    if mr == 1 { body::<1> } else { body::<6> }
}

/// # Safety
/// Same as `Kernel::run`; the processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn body<const MR: usize>(work: Work) {
    let Part { steps, mut a, mut b } = work.parts[0];
    let mut sums = [[_mm256_setzero_ps(); 2]; MR];
    for _ in 0..steps {
        // SAFETY: the panels hold `steps` steps of `MR` and 16 words.
        unsafe {
            let y = [_mm256_loadu_ps(b.cast()), _mm256_loadu_ps(b.add(8).cast())];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(r).cast());
                sums[0] = _mm256_fmadd_ps(x, y[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(x, y[1], sums[1]);
            }
            a = a.add(MR);
            b = b.add(16);
        }
    }
    // SAFETY: the caller guarantees this.
    unsafe { store(&sums, &work) };
}

/// Writes the sums of a tile, or adds them.
///
/// # Safety
/// Same as `Kernel::run`; the processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn store<const MR: usize>(sums: &[[__m256; 2]; MR], work: &Work) {
    let Work { c, stride, rows, columns, accumulate, .. } = *work;
    for (row, sums) in sums.iter().enumerate().take(rows) {
        let mut line = [0f32; 16];
        // SAFETY: `line` holds both vectors; the caller guarantees that the corner may be written.
        unsafe {
            let to = c.add(row * stride);
            if columns == 16 {
                for (v, &sum) in sums.iter().enumerate() {
                    let to = to.add(8 * v);
                    let sum = if accumulate { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum };
                    _mm256_storeu_ps(to, sum);
                }
                continue;
            }
            _mm256_storeu_ps(line.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(line.as_mut_ptr().add(8), sums[1]);
            for (column, &sum) in line.iter().enumerate().take(columns) {
                let to = to.add(column);
                *to = if accumulate { *to + sum } else { sum };
            }
        }
    }
}
