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
#[cfg(target_arch = "x86_64")]
mod amx_pack;
#[cfg(target_arch = "x86_64")]
mod amx_row;
#[cfg(target_arch = "x86_64")]
mod amx_rows;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_pack;
mod digits;
mod direct;
#[cfg(target_arch = "x86_64")]
mod fixed;
#[cfg(target_arch = "x86_64")]
mod fixed_chunk;
#[cfg(target_arch = "x86_64")]
mod fixed_row;
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
mod split;
mod strips;
mod tile;
mod words;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

pub use isa::Isa;
use kernel::Kernel;
use lines::{LINE, aligned};
use operand::Side;
pub use operand::{Operand, Precision};
pub use packed::Packed;
use plan::Grid;
use tile::{Part, Work};

pub use crate::weights::Elements;

/// The output of a product: a row-major window whose rows are `stride` apart.
struct Window {
    data: *mut f32,
    stride: usize,
}

// SAFETY: tasks write disjoint tiles of the window, see `tile`.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// Number of multiply-adds that one thread completes in the time it takes to start several.
const ALONE: usize = if cfg!(miri) { 1 << 12 } else { 1 << 15 };

/// One product `A·B` of a sum of products.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The left operand `[m, k]`.
    pub a: &'a Packed,
    /// The right operand `[k, n]`.
    pub b: Operand<'a>,
}

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

thread_local! {
    /// Buffer for the packed panels of `B`, kept between calls.
    static PANELS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// One block of `k` of a segment.
struct Block<'a> {
    segment: &'a Segment<'a>,
    kernel: &'a Kernel,
    index: usize,
    steps: usize,
}

/// Groups the blocks that pass over the output together. Thin blocks join the one before them, so that a tile is still
/// in the nearest cache when they add to it. So do blocks of tiles while their panels fit the cache, because tiles stay in
/// registers. The grouping depends on the `k`s alone.
fn stages<'a>(segments: &'a [Segment<'a>], kernels: &'a [Kernel]) -> Vec<Vec<Block<'a>>> {
    let mut stages: Vec<Vec<Block>> = Vec::new();
    for (segment, kernel) in segments.iter().zip(kernels) {
        for index in 0..segment.a.cut.blocks() {
            let steps = segment.a.cut.steps(index);
            let block = Block { segment, kernel, index, steps };
            let beside = |stage: &[Block]| {
                let words = stage.iter().map(|block| block.steps * block.kernel.nr).sum::<usize>();
                steps <= THIN || kernel.word.tiled() && words + steps * kernel.nr <= plan::PANEL_WORDS
            };
            match stages.last_mut() {
                Some(stage) if beside(stage) => stage.push(block),
                _ => stages.push(vec![block]),
            }
        }
    }
    stages
}

/// Maximum number of steps of a thin block.
const THIN: usize = 64;

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
            one_row(out, segment, add, parallel);
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
fn one_row(out: &Window, segment: &Segment, accumulate: bool, parallel: bool) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `one_row::fits` holds, `run` checked `k`, and the window has a row for each of `A`.
    unsafe {
        one_row::run((out.data, out.stride), segment.a, &segment.b, accumulate, parallel);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (out, segment, accumulate, parallel);
}

fn run_alike(out: &Window, segments: &[Segment], kernels: &[Kernel], accumulate: bool, parallel: bool) {
    let (m, n) = shape(segments);
    let stages = stages(segments, kernels);
    let (Some(kernel), false) = (kernels.first(), m == 0 || n == 0 || stages.is_empty()) else { return };
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let words = stages.iter().flatten().map(|block| block.steps * block.kernel.nr).sum();
    let grid = Grid::new(kernel, words, m, n, threads);
    let work = |task: usize| tile(&grid, &stages, out, task, accumulate);
    let size: usize = segments.iter().map(|s| m * n * s.b.k).sum();
    if threads > 1 && size > ALONE {
        (0..grid.tasks()).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..grid.tasks()).for_each(work);
    }
}

/// Runs one task: a range of row panels times a range of column panels, over all of `k`.
fn tile(grid: &Grid, stages: &[Vec<Block>], out: &Window, task: usize, accumulate: bool) {
    let (rows, columns) = grid.ranges(task);
    let mut panels = PANELS.with(|cell| std::mem::take(&mut *cell.borrow_mut()));
    let _ready = stages.iter().flatten().next().and_then(|block| block.kernel.ready());
    let size = |stage: &[Block]| stage.iter().map(|block| block.steps * block.kernel.nr).sum::<usize>();
    let (mut rest, mut add) = (stages, accumulate);
    while !rest.is_empty() {
        // As many stages as fit the cache with all columns pass over the rows together: a strip of the output stays in
        // the cache until it is complete.
        let mut words = 0;
        let together = rest.iter().take_while(|stage| {
            words += size(stage) * columns.len();
            words <= plan::TASK_WORDS
        });
        let (group, others) = rest.split_at(together.count().max(1));
        rest = others;
        let offsets: Vec<Vec<usize>> = pack_stages(group, columns.clone(), &mut panels);
        for row in rows.clone() {
            let mut add = add;
            for (stage, offsets) in group.iter().zip(&offsets) {
                strip(grid, stage, (row, columns.clone()), (&panels, offsets), out, add);
                add = true;
            }
        }
        add = true;
    }
    PANELS.with(|cell| *cell.borrow_mut() = panels);
}

/// Computes one row panel times a range of column panels, over the blocks of a stage.
fn strip(
    grid: &Grid,
    stage: &[Block],
    (row, columns): (usize, Range<usize>),
    (panels, offsets): (&[u32], &[usize]),
    out: &Window,
    accumulate: bool,
) {
    let m0 = row * stage[0].kernel.mr;
    let tile_rows = (grid.m - m0).min(stage[0].kernel.mr);
    let mut parts = Vec::with_capacity(stage.len());
    for (slot, column) in columns.enumerate() {
        let n0 = column * stage[0].kernel.nr;
        let tile_columns = (grid.n - n0).min(stage[0].kernel.nr);
        parts.clear();
        parts.extend(stage.iter().zip(offsets).map(|(block, offset)| Part {
            steps: block.steps,
            a: block.segment.a.panel(block.index, row).as_ptr(),
            b: panels[offset + slot * block.steps * block.kernel.nr..].as_ptr(),
        }));
        // Tiles keep their sums in registers over all parts.
        let at_once = if stage[0].kernel.word.tiled() { parts.len() } else { 1 };
        for (index, (block, parts)) in stage.iter().step_by(at_once).zip(parts.chunks(at_once)).enumerate() {
            // SAFETY: both panels of a part hold its steps; the tile lies inside the window, and no other task writes
            // it (`Grid::ranges` partitions the panels). Kernels of one shape get the same ready state.
            unsafe {
                block.kernel.run(Work {
                    parts,
                    c: out.data.add(m0 * out.stride + n0),
                    stride: out.stride,
                    rows: tile_rows,
                    columns: tile_columns,
                    accumulate: accumulate || index > 0,
                });
            }
        }
    }
}

/// Packs the columns of every block of the stages into `panels` and returns where each block's panels begin.
fn pack_stages(stages: &[Vec<Block>], columns: Range<usize>, panels: &mut Vec<u32>) -> Vec<Vec<usize>> {
    let size = |block: &Block| block.steps * block.kernel.nr;
    let total = stages.iter().flatten().map(size).sum::<usize>() * columns.len();
    panels.clear();
    panels.reserve(total + LINE);
    let (before, spare) = aligned(panels.spare_capacity_mut());
    let mut rest = &mut spare[..total];
    let mut offsets = Vec::with_capacity(stages.len());
    for stage in stages {
        let mut begins = Vec::with_capacity(stage.len());
        for block in stage {
            begins.push(before + total - rest.len());
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(size(block) * columns.len());
            rest = others;
            let k = block.segment.a.cut.k_range(block.index);
            for (column, to) in columns.clone().zip(mine.chunks_exact_mut(size(block).max(1))) {
                let nr = block.kernel.nr;
                pack::panel(block.kernel, Side::Right, &block.segment.b, column * nr, nr, k.clone(), to);
            }
        }
        offsets.push(begins);
    }
    // SAFETY: `aligned` wrote the words before the panels; the blocks' panels partition the others, and `pack::panel`
    // writes all of each panel.
    unsafe { panels.set_len(before + total) };
    offsets
}

#[cfg(test)]
mod tests;
