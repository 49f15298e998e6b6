//! Blocked, multi-threaded matrix product: `C [m, n] (+)= A [m, k] · B [k, n]`, f32 accumulation.
//!
//! After Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): both operands are packed
//! into panels that a register-tiled micro-kernel streams through. Storage types are widened, or rounded, while
//! packing, so no converted copy of a weight ever exists.
//!
//! **Batch invariance.** The bits of a row of `C` depend only on that row of `A`, on `B` and on `k`: the blocks of `k`
//! depend on `k` alone, every element is summed in order of `k`, and a partial tile runs the same instructions as a
//! full one. Neither the number of rows nor the number of threads affects the result.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux", not(miri)))]
mod amx_emulated;
#[cfg(target_arch = "x86_64")]
mod amx_pack;
#[cfg(target_arch = "x86_64")]
mod amx_row;
#[cfg(target_arch = "x86_64")]
mod amx_rows;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_pack;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_pack;
mod digits;
mod direct;
#[cfg(target_arch = "x86_64")]
mod fixed;
#[cfg(target_arch = "x86_64")]
mod fixed_avx2;
#[cfg(target_arch = "x86_64")]
mod fixed_chunk;
#[cfg(target_arch = "x86_64")]
mod fixed_chunk_avx2;
#[cfg(target_arch = "x86_64")]
mod fixed_chunk_avx512;
#[cfg(target_arch = "x86_64")]
mod fixed_pack_avx2;
#[cfg(target_arch = "x86_64")]
mod fixed_row;
#[cfg(target_arch = "x86_64")]
mod fixed_row_bf16;
mod isa;
mod kernel;
mod lines;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_bf16;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "x86_64")]
mod one_row;
mod operand;
mod pack;
mod packed;
#[cfg(target_arch = "x86_64")]
pub(crate) mod panels;
mod plan;
mod quads;
#[cfg(target_arch = "x86_64")]
mod quantised;
#[cfg(target_arch = "x86_64")]
mod quantised_avx2;
#[cfg(target_arch = "x86_64")]
mod quantised_avx512;
#[cfg(target_arch = "x86_64")]
mod quantised_rows;
#[cfg(target_arch = "x86_64")]
mod row_chunks;
#[cfg(target_arch = "x86_64")]
mod split;
#[cfg(target_arch = "x86_64")]
mod strip;
mod strips;
mod task;
mod tile;
mod words;

use rayon::prelude::*;

pub use isa::Isa;
use kernel::Kernel;
pub use operand::{Operand, Precision};
pub use packed::Packed;
use plan::{Grid, SHARE};
pub use task::Segment;
use task::{Window, stages, tile};

pub use crate::weights::Elements;

/// Number of multiply-adds that one thread completes in the time it takes to start several.
const ALONE: usize = if cfg!(miri) { 1 << 12 } else { 1 << 15 };

/// Returns `Σ A·B` over the segments, in order, as a new row-major buffer `[m, n]`, in one pass over the output.
///
/// # Panics
/// Panics if the segments differ in `m` or `n`, or there are none.
pub fn sum_of_products(segments: &[Segment]) -> Vec<f32> {
    let (m, n) = shape(segments);
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    if segments.iter().all(|segment| segment.b.k == 0) {
        out.resize(m * n, 0.0);
        return out;
    }
    run(&Window { data: out.as_mut_ptr(), stride: n }, segments, false, true);
    // SAFETY: without accumulation `run` writes every element of the window, which spans the capacity.
    unsafe { out.set_len(m * n) };
    out
}

/// Computes `out += Σ A·B` for a row-major `out [m, n]`.
///
/// # Panics
/// Same as [`sum_of_products`]; also panics if `out` has a different size.
pub fn add_products(out: &mut [f32], segments: &[Segment]) {
    let (m, n) = shape(segments);
    assert_eq!(out.len(), m * n, "output of a product");
    run(&Window { data: out.as_mut_ptr(), stride: n }, segments, true, true);
}

fn shape(segments: &[Segment]) -> (usize, usize) {
    let (m, n) = segments.first().map_or((0, 0), |first| (first.a.lanes, first.b.lanes));
    assert!(segments.iter().all(|s| (s.a.lanes, s.b.lanes) == (m, n)), "outputs of a sum of products");
    (m, n)
}

/// Returns `A·B` as a new row-major buffer `[a.lanes, b.lanes]`.
pub fn gemm(a: &Operand, b: &Operand, precision: Precision) -> Vec<f32> {
    sum_of_products(&[Segment { a: &Packed::new(a, precision), b: *b }])
}

/// Like [`gemm`], with the kernels of a given instruction set, for comparisons.
///
/// # Panics
/// Panics if this processor lacks the instruction set.
pub fn gemm_on(isa: Isa, a: &Operand, b: &Operand, precision: Precision) -> Vec<f32> {
    assert!(Isa::available().any(|other| other == isa), "{isa:?} on this processor");
    sum_of_products(&[Segment { a: &Packed::with(isa, a, precision, true), b: *b }])
}

/// Computes `out += A·B` for a row-major `out [a.lanes, b.lanes]`.
///
/// # Panics
/// Panics if `out` has a different size.
pub fn gemm_add(out: &mut [f32], a: &Operand, b: &Operand, precision: Precision) {
    add_products(out, &[Segment { a: &Packed::new(a, precision), b: *b }]);
}

/// Like [`gemm_add`] (or overwriting, without `accumulate`) into rows `stride` apart. It runs on the calling thread
/// only, for callers that are themselves parallel.
///
/// # Panics
/// Panics if the window does not fit `out`.
pub fn gemm_serial(out: &mut [f32], stride: usize, a: &Operand, b: &Operand, accumulate: bool) {
    if a.lanes == 0 || b.lanes == 0 {
        return;
    }
    let packed = Packed::serial(a, Precision::F32);
    serial(out, stride, &[Segment { a: &packed, b: *b }], accumulate);
}

/// Like [`gemm_serial`], for a sum of products whose left operands are already packed.
///
/// # Panics
/// Same as [`gemm_serial`] and [`sum_of_products`].
pub fn serial(out: &mut [f32], stride: usize, segments: &[Segment], accumulate: bool) {
    let (m, n) = shape(segments);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride && (m - 1) * stride + n <= out.len(), "window of a product");
    run(&Window { data: out.as_mut_ptr(), stride }, segments, accumulate, false);
}

/// Computes the sum of products. It writes exactly the `[m, n]` window.
fn run(out: &Window, segments: &[Segment], accumulate: bool, parallel: bool) {
    let (m, n) = shape(segments);
    for segment in segments {
        assert_eq!(segment.a.cut.k, segment.b.k, "inner dimensions of a product");
    }
    let kernels: Vec<Kernel> =
        segments.iter().map(|s| Kernel::select(s.a.isa, s.a.precision, m, n)).collect();
    // Segments with the same tile shape pass over the output together.
    let (mut begin, mut add) = (0, accumulate);
    while begin < segments.len() {
        let (kernel, segment) = (&kernels[begin], &segments[begin]);
        let alike = |(other, segment): &(&Kernel, &Segment)| {
            (other.mr, other.nr) == (kernel.mr, kernel.nr) && !alone(other, segment)
        };
        let mut end = begin + 1;
        if !alone(kernel, segment) {
            end += kernels[end..].iter().zip(&segments[end..]).take_while(alike).count();
            run_alike(out, &segments[begin..end], &kernels[begin..end], add, parallel);
        } else if segment.b.k > 0 {
            one_row(kernel, out, segment, add, parallel);
        }
        add |= segments[begin..end].iter().any(|segment| segment.b.k > 0);
        begin = end;
    }
}

/// Whether a segment is computed by itself.
fn alone(kernel: &Kernel, segment: &Segment) -> bool {
    #[cfg(target_arch = "x86_64")]
    return one_row::fits(kernel, segment.a, &segment.b);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (kernel, segment);
        false
    }
}

/// Computes a segment that is computed by itself.
fn one_row(kernel: &Kernel, out: &Window, segment: &Segment, accumulate: bool, parallel: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `one_row::fits` holds, `run` checked `k`, and the window has a row for each of `A`.
    unsafe {
        one_row::run(kernel, (out.data, out.stride), segment.a, &segment.b, accumulate, parallel);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (kernel, out, segment, accumulate, parallel);
}

fn run_alike(out: &Window, segments: &[Segment], kernels: &[Kernel], accumulate: bool, parallel: bool) {
    let (m, n) = shape(segments);
    let stages = stages(segments, kernels);
    let (Some(kernel), false) = (kernels.first(), m == 0 || n == 0 || stages.is_empty()) else { return };
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let words = stages.iter().flatten().map(|block| block.steps * block.kernel.nr).sum();
    let in_place =
        |(segment, kernel): (&Segment, &Kernel)| kernel.in_place(&segment.b, 0, &(0..segment.b.k)).is_some();
    let in_place = segments.iter().zip(kernels).all(in_place);
    let grid = Grid::new(kernel, (words, in_place), (m, n), threads);
    let k: usize = segments.iter().map(|s| s.b.k).sum();
    let work = |task: usize, least: usize| tile(&grid, &stages, out, task, (accumulate, least));
    if threads > 1 && m * n * k > ALONE {
        let columns = n.div_ceil(grid.tasks_n());
        let least = (SHARE / (kernel.mr * columns * k).max(1)).max(1);
        (0..grid.tasks()).into_par_iter().with_max_len(1).for_each(|task| work(task, least));
    } else {
        (0..grid.tasks()).for_each(|task| work(task, usize::MAX));
    }
}

#[cfg(test)]
mod tests;
