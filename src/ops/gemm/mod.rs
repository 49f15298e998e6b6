//! Blocked, multi-threaded matrix product: `C [m, n] (+)= A [m, k] · B [k, n]`, f32 accumulation.
//!
//! After Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): both operands are packed
//! into panels that a register-tiled micro-kernel streams through. Storage types are widened, or rounded to bf16, while
//! packing, so no converted copy of a weight ever exists.
//!
//! **Batch invariance.** The bits of a row of `C` depend on that row of `A`, on `B` and on `k` only: blocks of `k` are
//! cut from `k` alone, every element is summed in order of `k`, and a partial tile runs the same instructions as a full
//! one. Neither the number of rows nor the number of threads shows in the result.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod kernel;
mod pack;
mod plan;

use std::cell::RefCell;

use rayon::prelude::*;

pub use kernel::Isa;
use kernel::Kernel;
use plan::Plan;

pub use crate::weights::Elements;

/// A strided view of one operand: `lanes` rows of `A` (or columns of `B`), each `k` long.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    data: Elements<'a>,
    lanes: usize,
    k: usize,
    lane_stride: usize,
    k_stride: usize,
}

impl<'a> Operand<'a> {
    /// A row-major `[lanes, k]` matrix: the rows are the lanes. An activation as `A`, or a weight `[out, in]` as `B` of
    /// `x·Wᵀ`.
    ///
    /// # Panics
    /// If the slice is shorter than the shape; shapes are checked where tensors are born.
    pub fn by_row(data: Elements<'a>, lanes: usize, k: usize) -> Self {
        Self::strided(data, lanes, k, k, 1)
    }

    /// A row-major `[k, lanes]` matrix: the columns are the lanes. A weight `[out, in]` as `B` of `dy·W`.
    ///
    /// # Panics
    /// As [`Operand::by_row`].
    pub fn by_column(data: Elements<'a>, k: usize, lanes: usize) -> Self {
        Self::strided(data, lanes, k, 1, lanes)
    }

    /// Any strides, in elements.
    ///
    /// # Panics
    /// If an index of the view would lie outside the slice.
    pub fn strided(data: Elements<'a>, lanes: usize, k: usize, lane_stride: usize, k_stride: usize) -> Self {
        if lanes > 0 && k > 0 {
            let last = (lanes - 1) * lane_stride + (k - 1) * k_stride;
            assert!(last < data.len(), "operand [{lanes}, {k}] reaches {last} of {}", data.len());
        }
        Self { data, lanes, k, lane_stride, k_stride }
    }
}

/// What the operands are rounded to on their way into the kernel. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Products of f32.
    F32,
    /// Products of bf16, where the processor multiplies them; elsewhere as [`Precision::F32`].
    Bf16,
}

impl Precision {
    /// The precision a weight of this storage is multiplied in. Quantised weights are rounded to bf16 once they are
    /// dequantised: their own error is far larger.
    pub fn of(weight: &Elements) -> Self {
        if matches!(weight, Elements::Bf16(_) | Elements::Blocks(_)) { Self::Bf16 } else { Self::F32 }
    }
}

/// Output of a product: a row-major window whose rows are `stride` apart.
struct Window {
    data: *mut f32,
    stride: usize,
}

// SAFETY: tasks write disjoint tiles of the window, see `run`.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// `A·B` as a new row-major buffer `[a.lanes, b.lanes]`.
pub fn gemm(a: &Operand, b: &Operand, precision: Precision) -> Vec<f32> {
    let size = a.lanes * b.lanes;
    let mut out: Vec<f32> = Vec::with_capacity(size);
    if a.k == 0 {
        out.resize(size, 0.0);
        return out;
    }
    let window = Window { data: out.as_mut_ptr(), stride: b.lanes };
    run(Isa::detected(), &window, a, b, precision, false, true);
    // SAFETY: without accumulation `run` writes every element of the window, which spans the capacity.
    unsafe { out.set_len(size) };
    out
}

/// `out += A·B` for a row-major `out [a.lanes, b.lanes]`.
///
/// # Panics
/// If `out` has another size.
pub fn gemm_add(out: &mut [f32], a: &Operand, b: &Operand, precision: Precision) {
    assert_eq!(out.len(), a.lanes * b.lanes, "output of a product");
    let window = Window { data: out.as_mut_ptr(), stride: b.lanes };
    run(Isa::detected(), &window, a, b, precision, true, true);
}

/// As [`gemm_add`] (or overwriting, without `accumulate`) into rows `stride` apart, on the calling thread alone: for
/// callers that are parallel themselves.
///
/// # Panics
/// If the window does not fit `out`.
pub fn gemm_serial(out: &mut [f32], stride: usize, a: &Operand, b: &Operand, accumulate: bool) {
    if a.lanes == 0 || b.lanes == 0 {
        return;
    }
    assert!(b.lanes <= stride && (a.lanes - 1) * stride + b.lanes <= out.len(), "window of a product");
    let window = Window { data: out.as_mut_ptr(), stride };
    run(Isa::detected(), &window, a, b, Precision::F32, accumulate, false);
}

thread_local! {
    /// Packed panels of `A` and of `B`, kept between calls.
    static PANELS: RefCell<(Vec<u32>, Vec<u32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The product on `isa`. Writes exactly the `[a.lanes, b.lanes]` window.
fn run(
    isa: Isa,
    out: &Window,
    a: &Operand,
    b: &Operand,
    precision: Precision,
    accumulate: bool,
    parallel: bool,
) {
    assert_eq!(a.k, b.k, "inner dimensions of a product");
    if a.lanes == 0 || b.lanes == 0 || a.k == 0 {
        return;
    }
    let kernel = Kernel::select(isa, precision, a.lanes, b.lanes);
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let plan = Plan::new(&kernel, a.lanes, b.lanes, a.k, threads);
    // A task takes its own thread's panels, so the shared ones of A are taken out of the cell meanwhile.
    let mut panels = PANELS.with(|cell| std::mem::take(&mut cell.borrow_mut().0));
    plan.reserve(&mut panels, plan.size_a());
    let target = Window { data: panels.as_mut_ptr().cast(), stride: 0 };
    let work = |task: usize| tile(&plan, &kernel, out, target.panels(), b, task, accumulate);
    if threads > 1 && a.lanes * b.lanes * a.k > 1 << 15 {
        (0..plan.panels_a()).into_par_iter().for_each(|p| plan.pack_a(&kernel, a, p, target.panels()));
        (0..plan.tasks()).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..plan.panels_a()).for_each(|p| plan.pack_a(&kernel, a, p, target.panels()));
        (0..plan.tasks()).for_each(work);
    }
    PANELS.with(|cell| cell.borrow_mut().0 = panels);
}

impl Window {
    fn panels(&self) -> *mut u32 {
        self.data.cast()
    }
}

/// One task: a range of row panels times a range of column panels, all of `k`.
fn tile(
    plan: &Plan,
    kernel: &Kernel,
    out: &Window,
    panels_a: *const u32,
    b: &Operand,
    task: usize,
    accumulate: bool,
) {
    let (rows, columns) = plan.ranges(task);
    let mut panels_b = PANELS.with(|cell| std::mem::take(&mut cell.borrow_mut().1));
    for block in 0..plan.k_blocks() {
        let steps = plan.steps(block);
        plan.reserve(&mut panels_b, columns.len() * steps * kernel.nr);
        for (slot, column) in columns.clone().enumerate() {
            let to = &mut panels_b.spare_capacity_mut()[slot * steps * kernel.nr..][..steps * kernel.nr];
            pack::panel(kernel, b, column * kernel.nr, kernel.nr, plan.k_range(block), to);
        }
        for row in rows.clone() {
            let m0 = row * kernel.mr;
            for (slot, column) in columns.clone().enumerate() {
                let n0 = column * kernel.nr;
                let (tile_rows, tile_columns) = ((plan.m - m0).min(kernel.mr), (plan.n - n0).min(kernel.nr));
                // SAFETY: panel `row` of this block was packed in full by `pack_a` before any task began, panel `slot`
                // just above; the tile lies inside the window, and no other task writes it (`Plan::ranges` partitions
                // the panels).
                unsafe {
                    let a = panels_a.add(plan.offset_a(block, row));
                    let b = panels_b.as_ptr().add(slot * steps * kernel.nr);
                    let c = out.data.add(m0 * out.stride + n0);
                    kernel.run(steps, a, b, c, out.stride, tile_rows, tile_columns, accumulate || block > 0);
                }
            }
        }
    }
    PANELS.with(|cell| cell.borrow_mut().1 = panels_b);
}

#[cfg(test)]
mod tests;
