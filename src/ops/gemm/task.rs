//! The tasks of a product: packing the columns of a task, and multiplying them by all rows.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::Kernel;
use super::lines::{LINE, aligned};
use super::operand::{Operand, Side};
use super::pack;
use super::packed::Packed;
use super::plan::{self, Grid};
use super::tile::{Part, Place, Work};

/// The output of a product: a row-major window whose rows are `stride` apart.
pub(super) struct Window {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: tasks write disjoint tiles of the window, see `tile`.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

/// One product `A·B` of a sum of products.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The left operand `[m, k]`.
    pub a: &'a Packed,
    /// The right operand `[k, n]`.
    pub b: Operand<'a>,
}

thread_local! {
    /// Buffers for the packed panels of `B`, kept between calls. A thread that waits for others may begin another task.
    static PANELS: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

/// One block of `k` of a segment.
pub(super) struct Block<'a> {
    segment: &'a Segment<'a>,
    pub(super) kernel: &'a Kernel,
    index: usize,
    pub(super) steps: usize,
}

/// Groups the blocks that pass over the output together. Thin blocks join the one before them, so that a tile is still
/// in the nearest cache when they add to it. So do blocks of tiles while their panels fit the cache, because tiles stay in
/// registers. The grouping depends on the `k`s alone.
pub(super) fn stages<'a>(segments: &'a [Segment<'a>], kernels: &'a [Kernel]) -> Vec<Vec<Block<'a>>> {
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

/// Runs one task: a range of row panels times a range of column panels, over all of `k`. The rows are shared with threads
/// that have nothing else to do, at least `least` panels at a time.
pub(super) fn tile(
    grid: &Grid,
    stages: &[Vec<Block>],
    out: &Window,
    task: usize,
    (accumulate, least): (bool, usize),
) {
    let (rows, columns) = grid.ranges(task);
    if rows.len() <= plan::FEW && !stages.iter().flatten().any(|block| block.kernel.word.tiled()) {
        return few(grid, stages, out, (rows, columns), accumulate);
    }
    let mut panels = PANELS.with_borrow_mut(Vec::pop).unwrap_or_default();
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
        let packed = panels.as_slice();
        let passes = |row: usize, some: Range<usize>| {
            let mut parts = Vec::new();
            for (index, (stage, offsets)) in group.iter().zip(&offsets).enumerate() {
                parts.clear();
                parts.extend(stage.iter().zip(offsets).map(|(block, offset)| {
                    let panel = block.steps * block.kernel.nr;
                    let first = offset + (some.start - columns.start) * panel;
                    Part {
                        steps: block.steps,
                        a: block.segment.a.panel(block.index, row).as_ptr(),
                        b: packed[first..][..some.len() * panel].as_ptr(),
                    }
                }));
                strip(grid, stage, (row, some.clone()), &mut parts, out, add || index > 0);
            }
        };
        let fewest = fewest_columns(group);
        halved(rows.clone(), least, &|rows| {
            let _ready = group.iter().flatten().next().and_then(|block| block.kernel.ready());
            for row in rows {
                // A thread without work waits for no more than a part of a row.
                let columns = columns.clone();
                if least == 1 {
                    halved(columns, fewest, &|some| passes(row, some))
                } else {
                    passes(row, columns)
                }
            }
        });
        add = true;
    }
    PANELS.with_borrow_mut(|kept| kept.push(panels));
}

/// Runs a task of few rows: each panel of columns is multiplied while it is in the nearest cache, so that the weights are read
/// once and nothing larger than a panel is written.
fn few(
    grid: &Grid,
    stages: &[Vec<Block>],
    out: &Window,
    (rows, columns): (Range<usize>, Range<usize>),
    accumulate: bool,
) {
    let mut buffer = PANELS.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.clear();
    let largest = stages.iter().flatten().map(|block| block.steps * block.kernel.nr).max().unwrap_or(0);
    buffer.reserve(largest + LINE);
    let (_, panel) = aligned(buffer.spare_capacity_mut());
    let mut multiply = |column: usize, index: usize, block: &Block| {
        let Block { kernel, steps, .. } = *block;
        let (first, k) = (column * kernel.nr, block.segment.a.cut.k_range(block.index));
        let b = &block.segment.b;
        let in_place = kernel.in_place(b, first, &k);
        let words = match in_place {
            Some(numbers) => numbers.as_ptr().cast(),
            None => {
                let to = &mut panel[..steps * kernel.nr];
                pack::panel(kernel, Side::Right, b, first, kernel.nr, k, to);
                to.as_ptr().cast()
            }
        };
        // The columns beside these are next, or else the first ones of the next block.
        let ahead = if column + 1 < columns.end {
            kernel.nr
        } else {
            (steps * b.k_stride).wrapping_sub((column - columns.start) * kernel.nr)
        };
        for row in rows.clone() {
            let m0 = row * kernel.mr;
            let part = Part { steps, a: block.segment.a.panel(block.index, row).as_ptr(), b: words };
            let work = Work {
                parts: &[part],
                // SAFETY: the tile lies inside the window.
                c: unsafe { out.data.add(m0 * out.stride + first) },
                stride: out.stride,
                rows: (grid.m - m0).min(kernel.mr),
                columns: (grid.n - first).min(kernel.nr),
                accumulate: accumulate || index > 0,
                place: Place { step: b.k_stride, ahead },
            };
            // SAFETY: both panels hold the steps, or the operand does in place; the tile lies inside the window, and no
            // other task writes it. Only tiles need a ready state.
            unsafe { if in_place.is_some() { kernel.run_in_place(work) } else { kernel.run(work) } }
        }
    };
    // In the order in which the other operand is stored.
    let blocks = || stages.iter().flatten().enumerate();
    if blocks().any(|(_, block)| block.segment.b.k_stride == 1) {
        for column in columns.clone() {
            blocks().for_each(|(index, block)| multiply(column, index, block));
        }
    } else {
        for (index, block) in blocks() {
            columns.clone().for_each(|column| multiply(column, index, block));
        }
    }
    PANELS.with_borrow_mut(|kept| kept.push(buffer));
}

/// The fewest panels of columns of a row that another thread may take: as much work as is shared of a product, and more than one
/// panel. The state of tiles is that of one thread, which therefore keeps its rows whole.
fn fewest_columns(group: &[Vec<Block>]) -> usize {
    let work =
        |block: &Block| block.kernel.mr * block.kernel.nr * block.segment.a.cut.k_range(block.index).len();
    let blocks = || group.iter().flatten();
    match blocks().any(|block| block.kernel.word.tiled()) {
        true => usize::MAX,
        false => plan::SHARE.div_ceil(blocks().map(work).sum::<usize>().max(1)).max(2),
    }
}

/// Does the work of a range, in halves that other threads may take, down to `least`.
fn halved(range: Range<usize>, least: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    if range.len() / 2 < least {
        return work(range);
    }
    let middle = range.start + range.len() / 2;
    rayon::join(|| halved(range.start..middle, least, work), || halved(middle..range.end, least, work));
}

/// Computes one row panel times a range of column panels, over the blocks of a stage. `parts` are the panels of the row and
/// of the first columns, block by block.
fn strip(
    grid: &Grid,
    stage: &[Block],
    (row, columns): (usize, Range<usize>),
    parts: &mut [Part],
    out: &Window,
    accumulate: bool,
) {
    let Kernel { mr, nr, word, .. } = *stage[0].kernel;
    let (m0, n0) = (row * mr, columns.start * nr);
    let mut work = Work {
        parts: &[],
        // SAFETY: the tiles lie inside the window.
        c: unsafe { out.data.add(m0 * out.stride + n0) },
        stride: out.stride,
        rows: (grid.m - m0).min(mr),
        columns: (grid.n - n0).min(columns.len() * nr),
        accumulate,
        place: Place::default(),
    };
    if !word.tiled() {
        for (block, part) in stage.iter().zip(parts) {
            for tile in work.tiles(nr) {
                // SAFETY: both panels of the part hold its steps; the tile lies inside the window, and no other task writes it
                // (`Grid::ranges` partitions the panels).
                unsafe { block.kernel.run(Work { parts: std::slice::from_ref(part), ..tile }) };
                part.b = part.b.wrapping_add(block.steps * nr);
            }
            work.accumulate = true;
        }
        return;
    }
    for tile in work.tiles(nr) {
        // SAFETY: as above. Tiles keep their sums in registers over all parts. Kernels of one shape get the same ready state.
        unsafe { stage[0].kernel.run(Work { parts, ..tile }) };
        // To the panels of the next column.
        for (part, block) in parts.iter_mut().zip(stage) {
            part.b = part.b.wrapping_add(block.steps * block.kernel.nr);
        }
    }
}

/// Packs the columns of every block of the stages into `panels` and returns where each block's panels begin. The weight is
/// read in the order in which it is stored: of rows, all blocks of a panel one after another, else all panels of a block.
fn pack_stages(stages: &[Vec<Block>], columns: Range<usize>, panels: &mut Vec<u32>) -> Vec<Vec<usize>> {
    let size = |block: &Block| block.steps * block.kernel.nr;
    let total = stages.iter().flatten().map(size).sum::<usize>() * columns.len();
    panels.clear();
    panels.reserve(total + LINE);
    let (before, spare) = aligned(panels.spare_capacity_mut());
    let mut next = 0;
    let mut begin = |block: &Block| {
        let begin = next;
        next += size(block) * columns.len();
        begin
    };
    let begins: Vec<Vec<usize>> = stages.iter().map(|stage| stage.iter().map(&mut begin).collect()).collect();
    let blocks: Vec<(&Block, usize)> =
        stages.iter().flatten().zip(begins.iter().flatten().copied()).collect();
    let mut pack = |(block, begin): (&Block, usize), slot: usize| {
        let to = &mut spare[begin + slot * size(block)..][..size(block)];
        let (nr, k) = (block.kernel.nr, block.segment.a.cut.k_range(block.index));
        let first = (columns.start + slot) * nr;
        pack::panel(block.kernel, Side::Right, &block.segment.b, first, nr, k, to);
    };
    for blocks in blocks.chunk_by(|(a, _), (b, _)| std::ptr::eq(a.segment, b.segment)) {
        if blocks[0].0.segment.b.k_stride == 1 {
            (0..columns.len()).for_each(|slot| blocks.iter().for_each(|block| pack(*block, slot)));
        } else {
            blocks.iter().for_each(|block| (0..columns.len()).for_each(|slot| pack(*block, slot)));
        }
    }
    // SAFETY: `aligned` wrote the words before the panels; the panels partition the others, and `pack::panel` writes all of
    // each panel.
    unsafe { panels.set_len(before + total) };
    begins.into_iter().map(|stage| stage.into_iter().map(|begin| before + begin).collect()).collect()
}
