//! Computes one tensor of a merged model, a block of rows at a time.

use std::io::Result;
use std::ops::Range;

use rayon::prelude::*;

use super::encode::{Encoder, Encoding, Stock, widen_bf16};
use super::stream::Stream;
use crate::model::spec::LinearSpec;
use crate::ops::gemm::{self, Elements, Operand, Packed, Precision, Segment};
use crate::trainable::Delta;
use crate::weights::{DType, FrozenWeight};

/// Numbers in a block of rows: enough to keep all threads busy, and little compared with a model's tensors.
const BLOCK: usize = 1 << 22;
/// Rows and columns of a tile, 192 KiB of f32: it stays in a core's cache from widening to rounding. Fixed, so that sums
/// do not depend on the number of threads; the columns are whole blocks of every type.
const TILE_ROWS: usize = 48;
const TILE_COLUMNS: usize = 1024;

/// What one adapter adds to a weight.
pub(super) struct Addend<'a>(pub Delta<'a>);

impl Addend<'_> {
    /// The left operand of these rows of the product, as the weight is stored.
    fn left(&self, linear: &LinearSpec, rows: &Range<usize>) -> Packed {
        let operand = if linear.transposed {
            // Aᵀ·Bᵀ: a stored row is a feature that goes in.
            Operand::strided(
                Elements::F32(&self.0.a[rows.start..]),
                rows.len(),
                self.0.rank,
                1,
                linear.inputs,
            )
        } else {
            Operand::by_row(Elements::F32(&self.0.b[rows.start * self.0.rank..]), rows.len(), self.0.rank)
        };
        Packed::serial(&operand, Precision::F32)
    }

    /// The right operand of these columns.
    fn right(&self, linear: &LinearSpec, columns: &Range<usize>) -> Operand<'_> {
        if linear.transposed {
            let b = &self.0.b[columns.start * self.0.rank..];
            Operand::by_row(Elements::F32(b), columns.len(), self.0.rank)
        } else {
            let a = Elements::F32(&self.0.a[columns.start..]);
            Operand::strided(a, columns.len(), self.0.rank, 1, linear.inputs)
        }
    }
}

/// Multiplies a tile of a weight by 1 and the factors that the addends have for its rows (the outputs, which are columns of
/// a transposed weight).
fn scale_rows(
    addends: &[(&LinearSpec, &Addend, Packed)],
    across: &Range<usize>,
    down: &Range<usize>,
    tile: &mut [f32],
) {
    let factors = addends.iter().filter_map(|(linear, addend, _)| Some((linear, addend.0.rows.as_ref()?)));
    let mut sums: Option<(bool, Vec<f32>)> = None;
    for (linear, rows) in factors {
        let range = if linear.transposed { down } else { across };
        let (_, sums) = sums.get_or_insert_with(|| (linear.transposed, vec![1.0; range.len()]));
        sums.iter_mut().zip(&rows[range.clone()]).for_each(|(sum, factor)| *sum += factor);
    }
    let Some((transposed, sums)) = sums else { return };
    for (at, row) in tile.chunks_exact_mut(down.len()).enumerate() {
        if transposed {
            row.iter_mut().zip(&sums).for_each(|(x, factor)| *x *= factor);
        } else {
            row.iter_mut().for_each(|x| *x *= sums[at]);
        }
    }
}

/// The layout of a tensor in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub encoding: Encoding,
    /// Rows of a head whose halves become neighbours: from `[2, d/2]` to `[d/2, 2]`.
    pub head: Option<usize>,
    /// Numbers in a row, if that is not the last dimension (a bias has one).
    pub columns: Option<usize>,
    /// Added to every number (Gemma's norms are stored without the 1 of their gain).
    pub plus: f32,
}

impl From<DType> for Layout {
    /// As in the base, in this storage type.
    fn from(dtype: DType) -> Self {
        Self { encoding: Encoding::Float(dtype), head: None, columns: None, plus: 0.0 }
    }
}

/// Writes `weight` plus the addends of `linear` (none: the weight itself), summed in f32 and rounded once.
pub(super) fn write(
    out: &mut Stream,
    weight: &FrozenWeight,
    added: Option<(&LinearSpec, &[Addend])>,
    layout: &Layout,
) -> Result<Stock> {
    let numbers = weight.elements();
    let region = |range: Range<usize>, columns| Region {
        numbers: numbers.slice(range),
        columns,
        added,
        layout: *layout,
    };
    if added.is_some() || layout.head.is_some() {
        let columns = layout.columns.or(weight.shape().last().copied()).unwrap_or(1).max(1);
        return region(0..numbers.len(), columns).write(out);
    }
    // Rows do not matter here; split so that no thread gets single numbers, or one row of millions.
    let whole = numbers.len() - numbers.len() % TILE_COLUMNS;
    let stock = region(0..whole, TILE_COLUMNS).write(out)?;
    let rest = region(whole..numbers.len(), (numbers.len() - whole).max(1)).write(out)?;
    Ok(stock.and(rest))
}

/// A matrix being computed.
struct Region<'a> {
    /// Row-major, as in the base.
    numbers: Elements<'a>,
    columns: usize,
    added: Option<(&'a LinearSpec, &'a [Addend<'a>])>,
    layout: Layout,
}

impl Region<'_> {
    /// Works on blocks of rows: the threads fill a buffer, which is written while they fill the next one.
    fn write(&self, out: &mut Stream) -> Result<Stock> {
        let rows = self.numbers.len() / self.columns;
        // Whole heads, so that their rows can be reordered.
        let head = self.layout.head.unwrap_or(1).max(1);
        let (per_block, per_task) =
            ((BLOCK / self.columns / head).max(1) * head, TILE_ROWS.next_multiple_of(head));
        let row_bytes = self.layout.encoding.bytes(self.columns);
        let mut stock = Stock::default();
        for start in (0..rows).step_by(per_block) {
            let mut bytes = out.buffer((rows - start).min(per_block) * row_bytes);
            let tasks = bytes.par_chunks_mut((per_task * row_bytes).max(1)).enumerate();
            let parts = tasks.map_init(Scratch::default, |scratch, (task, bytes)| {
                let from = start + task * per_task;
                self.fill(from..from + bytes.len() / row_bytes, bytes, scratch)
            });
            let parts = parts.collect::<Result<Vec<Stock>>>()?;
            out.write_buffer(bytes)?;
            stock = parts.into_iter().fold(stock, Stock::and);
        }
        Ok(stock)
    }

    /// These rows, encoded into `bytes`; every pass over a tile finds it in the cache.
    fn fill(&self, rows: Range<usize>, bytes: &mut [u8], scratch: &mut Scratch) -> Result<Stock> {
        let Scratch { tile, row: one } = scratch;
        let encoding = self.layout.encoding;
        let row_bytes = encoding.bytes(self.columns);
        let mut stock = Stock::default();
        for top in rows.clone().step_by(TILE_ROWS) {
            let across = top..rows.end.min(top + TILE_ROWS);
            let addends = self.added.iter().flat_map(|(linear, addends)| {
                addends.iter().map(|addend| (*linear, addend, addend.left(linear, &across)))
            });
            let addends: Vec<_> = addends.collect();
            for left in (0..self.columns).step_by(TILE_COLUMNS) {
                let down = left..self.columns.min(left + TILE_COLUMNS);
                let width = down.len();
                tile.resize(across.len() * width, 0.0);
                for (row, exact) in across.clone().zip(tile.chunks_exact_mut(width)) {
                    self.read(row, &down, exact);
                }
                scale_rows(&addends, &across, &down, tile);
                for (linear, addend, packed) in &addends {
                    let product = Segment { a: packed, b: addend.right(linear, &down) };
                    gemm::serial(tile, width, &[product], true);
                }
                for (row, exact) in across.clone().zip(tile.chunks_exact_mut(width)) {
                    let at = (self.place(row) - rows.start) * row_bytes + encoding.bytes(left);
                    let before = one.before(width);
                    self.read(row, &down, before);
                    if self.layout.plus != 0.0 {
                        before.iter_mut().chain(&mut *exact).for_each(|x| *x += self.layout.plus);
                    }
                    let to = &mut bytes[at..at + encoding.bytes(width)];
                    stock = stock.and(one.encode(encoding, exact, to)?);
                }
            }
        }
        Ok(stock)
    }

    fn read(&self, row: usize, columns: &Range<usize>, out: &mut [f32]) {
        let first = row * self.columns;
        match self.numbers.slice(first + columns.start..first + columns.end) {
            Elements::Bf16(narrow) => widen_bf16(narrow, out),
            other => other.widen_into(out),
        }
    }

    /// The new position of a row: rows of each head go from `[2, d/2]` to `[d/2, 2]`.
    fn place(&self, row: usize) -> usize {
        let Some(head) = self.layout.head else { return row };
        let (first, within) = (row / head * head, row % head);
        first + within % (head / 2) * 2 + within / (head / 2)
    }
}

/// A thread's buffers, kept from one task to the next.
#[derive(Default)]
struct Scratch {
    /// `[TILE_ROWS, TILE_COLUMNS]`, exact.
    tile: Vec<f32>,
    row: Encoder,
}
