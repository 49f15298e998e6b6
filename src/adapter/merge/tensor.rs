//! One tensor of a merged model, a block of rows at a time.

use std::io::{Result, Write};
use std::ops::Range;

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

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

/// Writes `weight` plus the addends of `linear` (none: the weight itself), summed in f32 and rounded once to `dtype`.
pub(super) fn write(
    out: &mut dyn Write,
    weight: &FrozenWeight,
    added: Option<(&LinearSpec, &[Addend])>,
    dtype: DType,
) -> Result<Stock> {
    let columns = weight.shape().last().copied().unwrap_or(1).max(1);
    let rows = weight.elements().len() / columns;
    let step = (BLOCK / columns).max(1);
    let (mut before, mut stored) = (Vec::new(), Vec::new());
    let mut stock = Stock::default();
    for start in (0..rows).step_by(step) {
        let block = start..rows.min(start + step);
        before.resize(block.len() * columns, 0.0);
        weight.elements().slice(block.start * columns..block.end * columns).widen_into(&mut before);
        let mut exact = before.clone();
        if let Some((linear, addends)) = added {
            addends.iter().for_each(|addend| addend.add(linear, block.clone(), &mut exact));
        }
        stored.resize(exact.len(), 0.0);
        match dtype {
            DType::F32 => {
                stored.copy_from_slice(&exact);
                out.write_all(bytemuck::cast_slice(&exact))?;
            }
            DType::Bf16 => write_rounded::<bf16>(out, &exact, &mut stored)?,
            DType::F16 => write_rounded::<f16>(out, &exact, &mut stored)?,
        }
        let parts = before.par_chunks(TASK).zip(exact.par_chunks(TASK)).zip(stored.par_chunks(TASK));
        let parts: Vec<Stock> = parts.map(|((b, e), s)| Stock::take(b, e, s)).collect();
        stock = parts.into_iter().fold(stock, Stock::and);
    }
    Ok(stock)
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
