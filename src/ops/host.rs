//! Buffers of f32 rows, built and changed on all threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Numbers per task: enough to be worth handing over to another thread, few enough to stay in its cache. Miri, which
/// takes microseconds for each number, has as many tasks with fewer numbers each.
const TASK: usize = if cfg!(miri) { 1 << 5 } else { 1 << 14 };

/// Rows per task.
fn task_rows(columns: usize) -> usize {
    TASK.div_ceil(columns.max(1)).max(1)
}

/// Writes zeros on the thread that fills the part afterwards, so that they are still in its nearest cache.
fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: every element was just written.
    unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), part.len()) }
}

/// Returns a new `[rows, columns]` buffer. `fill(row, out)` writes each row over zeros; rows are processed in parallel.
pub fn build_rows(rows: usize, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let (size, chunk) = (rows * columns, task_rows(columns));
    let mut out: Vec<f32> = Vec::with_capacity(size);
    let task = |c: usize, part: &mut [MaybeUninit<f32>]| {
        for (r, row) in part.chunks_exact_mut(columns.max(1)).enumerate() {
            fill(c * chunk + r, zeroed(row));
        }
    };
    let spare = &mut out.spare_capacity_mut()[..size];
    if size <= TASK {
        task(0, spare);
    } else {
        spare.par_chunks_mut(chunk * columns).enumerate().for_each(|(c, part)| task(c, part));
    }
    // SAFETY: the rows partition the buffer, and `zeroed` initialised each.
    unsafe { out.set_len(size) };
    out
}

/// Like [`build_rows`], for two buffers of the same shape at once.
pub fn build_two(
    rows: usize,
    columns: usize,
    fill: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (size, chunk) = (rows * columns, task_rows(columns));
    let (mut first, mut second): (Vec<f32>, Vec<f32>) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let parts = first.spare_capacity_mut()[..size]
        .par_chunks_mut((chunk * columns).max(1))
        .zip(second.spare_capacity_mut()[..size].par_chunks_mut((chunk * columns).max(1)));
    parts.enumerate().for_each(|(c, (a, b))| {
        let rows = a.chunks_exact_mut(columns.max(1)).zip(b.chunks_exact_mut(columns.max(1)));
        for (r, (a, b)) in rows.enumerate() {
            fill(c * chunk + r, zeroed(a), zeroed(b));
        }
    });
    // SAFETY: as above, for both buffers.
    unsafe {
        first.set_len(size);
        second.set_len(size);
    }
    (first, second)
}

/// Returns `size` zeros.
pub fn zeros(size: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(size);
    out.spare_capacity_mut()[..size].par_chunks_mut(TASK).for_each(|part| {
        zeroed(part);
    });
    // SAFETY: the chunks partition the buffer, and `zeroed` initialised each.
    unsafe { out.set_len(size) };
    out
}

/// Copies `from` on all threads.
pub fn copy(from: &[f32]) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::with_capacity(from.len());
    from.par_chunks(TASK).zip(out.spare_capacity_mut().par_chunks_mut(TASK)).for_each(|(from, to)| {
        to.iter_mut().zip(from).for_each(|(to, from)| {
            to.write(*from);
        });
    });
    // SAFETY: every chunk of `from` was written to its place.
    unsafe { out.set_len(from.len()) };
    out
}

/// Updates each row of `[rows, columns]` in place, with rows in parallel.
pub fn update_rows(out: &mut [f32], columns: usize, change: impl Fn(usize, &mut [f32]) + Sync) {
    let chunk = task_rows(columns);
    if out.len() <= TASK {
        out.chunks_exact_mut(columns.max(1)).enumerate().for_each(|(row, out)| change(row, out));
        return;
    }
    out.par_chunks_mut(chunk * columns).enumerate().for_each(|(c, rows)| {
        for (r, out) in rows.chunks_exact_mut(columns).enumerate() {
            change(c * chunk + r, out);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_built_in_place_whatever_their_number() {
        for (rows, columns) in [(0, 5), (3, 7), (4 * TASK / 13, 13), (2, 5 * TASK / 2)] {
            let out = build_rows(rows, columns, |row, out| {
                assert!(out.iter().all(|x| *x == 0.0));
                out[0] = row as f32 + 1.0;
            });
            assert_eq!(out.len(), rows * columns);
            assert!(out.iter().step_by(columns).enumerate().all(|(row, x)| *x == row as f32 + 1.0));
            let (a, b) = build_two(rows, columns, |row, a, b| (a[0], b[0]) = (row as f32, -(row as f32)));
            assert!((a.len(), b.len()) == (out.len(), out.len()) && a.iter().zip(&b).all(|(a, b)| *a == -b));
            assert_eq!(copy(&out), out);
        }
        assert_eq!(zeros(6 * TASK + 1), vec![0.0; 6 * TASK + 1]);
    }
}
