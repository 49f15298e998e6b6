//! Buffers of f32 rows, built and changed on all threads. Every part can be taken by another thread (`with_max_len`): left to
//! itself, rayon makes a few pieces, and one thread waits for the last piece of the other.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd;

/// Fewest and most numbers per task: enough to be worth handing over to another thread, few enough to stay in its cache. Miri,
/// which takes microseconds for each number, has as many tasks with fewer numbers each.
const TASK: (usize, usize) = if cfg!(miri) { (1 << 3, 1 << 5) } else { (1 << 12, 1 << 14) };

/// Tasks for each thread, where there are enough numbers.
const SHARES: usize = 4;

/// Numbers per task, of `size`.
fn task(size: usize) -> usize {
    (size / (SHARES * rayon::current_num_threads())).clamp(TASK.0, TASK.1)
}

/// Rows per task, of `size` numbers.
fn task_rows(size: usize, columns: usize) -> usize {
    task(size).div_ceil(columns.max(1)).max(1)
}

/// Writes zeros on the thread that fills the part afterwards, so that they are still in its nearest cache.
fn zeroed(part: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    part.fill(MaybeUninit::new(0.0));
    // SAFETY: every element was just written.
    unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast(), part.len()) }
}

/// Returns a new `[rows, columns]` buffer. `fill(row, out)` writes each row over zeros; rows are processed in parallel.
pub fn build_rows(rows: usize, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let (size, chunk) = (rows * columns, task_rows(rows * columns, columns));
    let mut out: Vec<f32> = Vec::with_capacity(size);
    let task = |c: usize, part: &mut [MaybeUninit<f32>]| {
        for (r, row) in part.chunks_exact_mut(columns.max(1)).enumerate() {
            fill(c * chunk + r, zeroed(row));
        }
    };
    let spare = &mut out.spare_capacity_mut()[..size];
    if size <= TASK.0 {
        task(0, spare);
    } else {
        spare.par_chunks_mut(chunk * columns).enumerate().with_max_len(1).for_each(|(c, part)| task(c, part));
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
    let (size, chunk) = (rows * columns, task_rows(rows * columns, columns));
    let (mut first, mut second): (Vec<f32>, Vec<f32>) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let parts = first.spare_capacity_mut()[..size]
        .par_chunks_mut((chunk * columns).max(1))
        .zip(second.spare_capacity_mut()[..size].par_chunks_mut((chunk * columns).max(1)));
    parts.enumerate().with_max_len(1).for_each(|(c, (a, b))| {
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
    out.spare_capacity_mut()[..size].par_chunks_mut(task(size)).with_max_len(1).for_each(|part| {
        zeroed(part);
    });
    // SAFETY: the chunks partition the buffer, and `zeroed` initialised each.
    unsafe { out.set_len(size) };
    out
}

/// Copies `from` on all threads.
pub fn copy(from: &[f32]) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::with_capacity(from.len());
    let task = task(from.len());
    let parts = from.par_chunks(task).zip(out.spare_capacity_mut().par_chunks_mut(task));
    parts.with_max_len(1).for_each(|(from, to)| {
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
    let chunk = task_rows(out.len(), columns);
    if out.len() <= TASK.0 {
        out.chunks_exact_mut(columns.max(1)).enumerate().for_each(|(row, out)| change(row, out));
        return;
    }
    out.par_chunks_mut(chunk * columns).enumerate().with_max_len(1).for_each(|(c, rows)| {
        for (r, out) in rows.chunks_exact_mut(columns).enumerate() {
            change(c * chunk + r, out);
        }
    });
}

/// Changes numbers that do not depend on each other in place, in parts.
fn update(out: &mut [f32], change: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= TASK.0 {
        return change(0, out);
    }
    let task = task(out.len());
    out.par_chunks_mut(task).enumerate().with_max_len(1).for_each(|(part, out)| change(part * task, out));
}

/// Computes `sum += part` on all threads, for as many numbers.
pub fn add(sum: &mut [f32], part: &[f32]) {
    update(sum, |at, sum| simd::add_scaled(sum, &part[at..at + sum.len()], 1.0));
}

/// Multiplies all numbers by a factor, on all threads.
pub fn scale(x: &mut [f32], factor: f32) {
    update(x, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Writes zeros on all threads.
pub fn clear(out: &mut [f32]) {
    update(out, |_, out| out.fill(0.0));
}

/// Whether no number is infinite or NaN, with all threads.
pub fn are_finite(x: &[f32]) -> bool {
    x.par_chunks(task(x.len())).all(simd::are_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_built_in_place_whatever_their_number() {
        for (rows, columns) in [(0, 5), (3, 7), (TASK.0 / 5, 6), (4 * TASK.1 / 13, 13), (2, 5 * TASK.1 / 2)] {
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
        assert_eq!(zeros(6 * TASK.1 + 1), vec![0.0; 6 * TASK.1 + 1]);
    }

    #[test]
    fn numbers_are_changed_where_they_are() {
        for size in [0, 5, TASK.0 + 3, 20 * TASK.1 + 1] {
            let part: Vec<f32> = (0..size).map(|i| (i % 1001) as f32).collect();
            let mut sum = part.clone();
            add(&mut sum, &part);
            scale(&mut sum, 0.5);
            assert!(sum == part && are_finite(&sum));
            if let Some(last) = sum.last_mut() {
                *last = f32::NAN;
                assert!(!are_finite(&sum));
            }
            clear(&mut sum);
            assert_eq!(sum, vec![0.0; size]);
        }
    }
}
