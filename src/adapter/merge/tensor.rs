//! One tensor of a merged model, a block of rows at a time.

use std::io::{Result, Write};
use std::ops::Range;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::super::gguf_writer::{Q8_BLOCK, Q8_BYTES, q8_0_into};
use crate::model::lora::{Lora, Slot};
use crate::model::spec::LinearSpec;
use crate::ops::gemm::{Elements, Operand, Precision, gemm_add};
use crate::weights::{DType, FrozenWeight};

/// Numbers in a block of rows: enough to keep all threads at work, few beside any model's tensors.
const BLOCK: usize = 1 << 20;
/// Numbers that one task takes stock of; fixed, so that sums do not depend on the number of threads.
const TASK: usize = 1 << 15;

/// One low-rank addend of a weight.
pub(super) struct Addend<'a> {
    /// `A [r, in]`.
    a: &'a [f32],
    /// `B [out, r]` times weight and scale.
    b: Vec<f32>,
    rank: usize,
}

impl<'a> Addend<'a> {
    /// `weight·scale·B·A` of a slot of `lora`.
    pub fn new(lora: &'a Lora, slot: &Slot, weight: f64) -> Self {
        let factor = weight * slot.scale;
        let b = lora.values()[slot.b()].iter().map(|b| (f64::from(*b) * factor) as f32).collect();
        Self { a: &lora.values()[slot.a()], b, rank: slot.rank }
    }

    /// Adds these rows of the product, as the weight is stored, to `out`.
    fn add(&self, linear: &LinearSpec, rows: Range<usize>, out: &mut [f32]) {
        let Self { a, b, rank } = self;
        let LinearSpec { inputs, outputs, .. } = linear;
        let (left, right) = if linear.transposed {
            // Aᵀ·Bᵀ: a stored row is a feature that goes in.
            let left = Operand::strided(Elements::F32(&a[rows.start..]), rows.len(), *rank, 1, *inputs);
            (left, Operand::by_row(Elements::F32(b), *outputs, *rank))
        } else {
            let left = Operand::by_row(Elements::F32(&b[rows.start * rank..]), rows.len(), *rank);
            (left, Operand::by_column(Elements::F32(a), *rank, *inputs))
        };
        gemm_add(out, &left, &right, Precision::F32);
    }
}

/// What was added to a tensor, and what its storage type then took away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stock {
    /// Sum of squares of what was added.
    pub delta: f64,
    /// Sum of squares of what rounding changed.
    pub rounding: f64,
    /// The largest change by rounding.
    pub largest: f64,
    /// Whether a finite number became one that is not.
    pub overflows: bool,
}

impl Stock {
    fn take(before: &[f32], exact: &[f32], stored: &[f32]) -> Self {
        let mut stock = Self::default();
        for ((before, exact), stored) in before.iter().zip(exact).zip(stored) {
            let delta = f64::from(*exact) - f64::from(*before);
            let rounding = f64::from(*stored) - f64::from(*exact);
            stock.delta += delta * delta;
            stock.rounding += rounding * rounding;
            stock.largest = stock.largest.max(rounding.abs());
            stock.overflows |= before.is_finite() && !stored.is_finite();
        }
        stock
    }

    fn and(self, other: Self) -> Self {
        Self {
            delta: self.delta + other.delta,
            rounding: self.rounding + other.rounding,
            largest: self.largest.max(other.largest),
            overflows: self.overflows | other.overflows,
        }
    }
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// One by one.
    Float(DType),
    /// ggml's blocks of 32, which no row may cut.
    Q8_0,
}

/// How a tensor is laid out in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub encoding: Encoding,
    /// Rows of a head whose halves become neighbours: `[2, d/2]` to `[d/2, 2]`.
    pub head: Option<usize>,
    /// Numbers in a row, if not the last dimension (a bias has one).
    pub columns: Option<usize>,
    /// Added to every number (the gain of Gemma's norms is stored without its 1).
    pub plus: f32,
}

/// Writes `weight` plus the addends of `linear` (none: the weight itself), summed in f32 and rounded once to `dtype`.
pub(super) fn write(
    out: &mut dyn Write,
    weight: &FrozenWeight,
    added: Option<(&LinearSpec, &[Addend])>,
    dtype: DType,
) -> Result<Stock> {
    let layout = Layout { encoding: Encoding::Float(dtype), head: None, columns: None, plus: 0.0 };
    write_as(out, weight, added, &layout)
}

/// As [`write`], in another layout.
pub(super) fn write_as(
    out: &mut dyn Write,
    weight: &FrozenWeight,
    added: Option<(&LinearSpec, &[Addend])>,
    layout: &Layout,
) -> Result<Stock> {
    let columns = layout.columns.or(weight.shape().last().copied()).unwrap_or(1).max(1);
    let rows = weight.elements().len() / columns;
    // Whole heads, so that their rows can change places.
    let step = (BLOCK / columns).max(1).next_multiple_of(layout.head.unwrap_or(1).max(1));
    let (mut before, mut exact, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    let mut stock = Stock::default();
    for start in (0..rows).step_by(step) {
        let block = start..rows.min(start + step);
        let stored_as = weight.elements().slice(block.start * columns..block.end * columns);
        before.resize(stored_as.len(), 0.0);
        exact.resize(stored_as.len(), 0.0);
        let tasks = before.par_chunks_mut(TASK).zip(exact.par_chunks_mut(TASK));
        tasks.enumerate().for_each(|(task, (before, exact))| {
            stored_as.slice(task * TASK..task * TASK + before.len()).widen_into(before);
            exact.copy_from_slice(before);
        });
        if let Some((linear, addends)) = added {
            addends.iter().for_each(|addend| addend.add(linear, block.clone(), &mut exact));
        }
        if layout.plus != 0.0 {
            [&mut before, &mut exact].into_iter().flatten().for_each(|x| *x += layout.plus);
        }
        if let Some(head) = layout.head {
            before = neighbours(&before, head, columns);
            exact = neighbours(&exact, head, columns);
        }
        stored.resize(exact.len(), 0.0);
        match layout.encoding {
            Encoding::Float(DType::F32) => {
                stored.copy_from_slice(&exact);
                out.write_all(bytemuck::cast_slice(&exact))?;
            }
            Encoding::Float(DType::Bf16) => write_rounded::<bf16>(out, &exact, &mut stored)?,
            Encoding::Float(DType::F16) => write_rounded::<f16>(out, &exact, &mut stored)?,
            Encoding::Q8_0 => write_blocks(out, &exact, &mut stored)?,
        }
        let parts = before.par_chunks(TASK).zip(exact.par_chunks(TASK)).zip(stored.par_chunks(TASK));
        let parts: Vec<Stock> = parts.map(|((b, e), s)| Stock::take(b, e, s)).collect();
        stock = parts.into_iter().fold(stock, Stock::and);
    }
    Ok(stock)
}

/// Rows of each head from `[2, d/2]` to `[d/2, 2]`.
fn neighbours(x: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let row = |at: usize| {
        let (first, within) = (at / head * head, at % head);
        &x[(first + within % 2 * (head / 2) + within / 2) * columns..][..columns]
    };
    (0..x.len() / columns).flat_map(|at| row(at).iter().copied()).collect()
}

/// Writes `exact` in blocks of Q8_0, and puts what was written, widened, into `stored`.
fn write_blocks(out: &mut dyn Write, exact: &[f32], stored: &mut [f32]) -> Result<()> {
    let mut bytes = vec![0u8; exact.len() / Q8_BLOCK * Q8_BYTES];
    let tasks = bytes.par_chunks_mut(TASK / Q8_BLOCK * Q8_BYTES).zip(exact.par_chunks(TASK));
    tasks.zip(stored.par_chunks_mut(TASK)).for_each(|((bytes, exact), stored)| {
        let blocks = bytes.chunks_exact_mut(Q8_BYTES).zip(exact.chunks_exact(Q8_BLOCK));
        for ((bytes, exact), stored) in blocks.zip(stored.chunks_exact_mut(Q8_BLOCK)) {
            q8_0_into(exact, bytes);
            let scale = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            for (byte, stored) in bytes[2..].iter().zip(stored) {
                *stored = f32::from(byte.cast_signed()) * scale;
            }
        }
    });
    out.write_all(&bytes)
}

/// Writes `exact` rounded to nearest even, and puts what was written, widened, into `stored`.
fn write_rounded<T: Pod + Send + Sync>(out: &mut dyn Write, exact: &[f32], stored: &mut [f32]) -> Result<()>
where
    [T]: HalfFloatSliceExt,
{
    let mut narrow = vec![T::zeroed(); exact.len()];
    let tasks = narrow.par_chunks_mut(TASK).zip(exact.par_chunks(TASK)).zip(stored.par_chunks_mut(TASK));
    tasks.for_each(|((narrow, exact), stored)| {
        narrow.convert_from_f32_slice(exact);
        narrow.convert_to_f32_slice(stored);
    });
    out.write_all(bytemuck::cast_slice(&narrow))
}
