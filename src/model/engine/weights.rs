//! The frozen weights on the device. Projections that read the same input form one matrix, surrounded by the low-rank
//! matrices:
//!
//! ```text
//!            K       R                x [T, K | R]: activations, then z = x·Aᵀ
//!      ┌───────────┬────┐
//!    N │     W     │ s·B│            y  = [x, z]·[W, s·B]ᵀ
//!      ├───────────┼────┤            dz = dy·(s·B)
//!    R │     A     │    │            dx = [dy, dz]·[W; A]
//!      └───────────┴────┘
//! ```
//!
//! A linear map with its low-rank paths is thus one thin product and one wide product, in both forward and backward
//! pass.

use std::sync::Arc;

use super::kernels::{Kernels, NormAt, Rows};
use crate::device::{Address, Backend, Buffer, Kind};
use crate::error::Result;
use crate::model::norm::Norm;
use crate::ops::frozen_linear::Linear;
use crate::weights::{BlockKind, DType, FrozenWeight};

/// Rows are padded to a multiple of this many values, so that they start at multiples of 16 bytes.
pub(super) const PAD: usize = 8;

/// Number of bytes converted at once while copying to the device.
const PART: usize = 16 << 20;

/// A norm's parameters.
#[derive(Debug)]
pub(super) struct NormOn {
    gain: Buffer,
    bias: Option<Buffer>,
    at: NormAt,
}

impl NormOn {
    pub(super) fn new(device: &Arc<dyn Backend>, norm: &Norm) -> Result<Self> {
        let parts = norm.parts();
        let gain = Buffer::of(device, &parts.gain)?;
        let bias = parts.bias.as_ref().map(|bias| Buffer::of(device, bias)).transpose()?;
        let at = NormAt {
            gain: gain.at(),
            bias: bias.as_ref().map_or(Address::NONE, Buffer::at),
            kind: if parts.bias.is_some() { 2 } else { 1 },
            eps: parts.eps as f32,
            size: parts.size,
            gains: parts.gain.len(),
        };
        Ok(Self { gain, bias, at })
    }

    pub(super) fn at(&self) -> NormAt {
        debug_assert!(self.gain.at() == self.at.gain && self.bias.is_some() == (self.at.kind == 2));
        self.at
    }
}

/// Returns the location of a norm, or an empty one if there is no norm.
pub(super) fn norm_at(norm: &Option<NormOn>) -> NormAt {
    norm.as_ref().map_or_else(NormAt::default, NormOn::at)
}

/// The kernels' code for a storage type.
fn code(weight: &FrozenWeight) -> i32 {
    match (weight.block_kind(), weight.dtype()) {
        (Some(kind), _) => match kind {
            BlockKind::Q4_0 => 16,
            BlockKind::Q4_1 => 17,
            BlockKind::Q5_0 => 18,
            BlockKind::Q5_1 => 19,
            BlockKind::Q8_0 => 20,
            BlockKind::Q4K => 21,
            BlockKind::Q5K => 22,
            BlockKind::Q6K => 23,
            BlockKind::Nf4 => 24,
        },
        (None, Some(DType::Bf16)) => 1,
        (None, Some(DType::F16)) => 2,
        (None, _) => 0,
    }
}

/// A table whose rows are looked up: the embedding or learned positions.
#[derive(Debug)]
pub(super) struct Table {
    rows: Buffer,
    pub(super) kind: i32,
}

impl Table {
    pub(super) fn new(device: &Arc<dyn Backend>, weight: &FrozenWeight) -> Result<Self> {
        let bytes = weight.bytes();
        let rows = Buffer::new(device, bytes.len())?;
        if device.computes() {
            rows.write(bytes)?;
            weight.release();
        }
        Ok(Self { rows, kind: code(weight) })
    }

    pub(super) fn at(&self) -> Address {
        self.rows.at()
    }
}

/// Quantised rows of a matrix.
#[derive(Debug)]
struct Part {
    blocks: Buffer,
    kind: i32,
    first: usize,
    rows: usize,
}

/// Linear maps that share one input, with room for low-rank paths.
#[derive(Debug)]
pub(super) struct Group {
    /// Input features (K), output features (N) and ranks (R, a multiple of [`PAD`]).
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) ranks: usize,
    /// The matrix, or for quantised weights only the low-rank parts: `[N, R]` and `[R, K]`.
    dense: Buffer,
    low: Option<[Buffer; 2]>,
    parts: Vec<Part>,
    bias: Option<Buffer>,
    kind: Kind,
}

impl Group {
    /// Copies `linears` to the device, side by side.
    pub(super) fn new(
        device: &Arc<dyn Backend>,
        kind: Kind,
        linears: &[&Linear],
        ranks: usize,
    ) -> Result<Self> {
        let inputs = linears.first().map_or(0, |linear| linear.inputs());
        let outputs = linears.iter().map(|linear| linear.outputs()).sum();
        let bias = biases(linears).map(|bias| Buffer::of(device, &bias)).transpose()?;
        let quantised = linears.iter().any(|linear| linear.weight().block_kind().is_some());
        let pitch = (inputs + ranks).next_multiple_of(PAD);
        let size = kind.size();
        if !quantised {
            let bytes = (outputs + ranks) * pitch * size;
            let dense = Buffer::new(device, bytes)?;
            if ranks > 0 || pitch > inputs {
                device.zero(dense.at(), bytes, bytes, 1)?;
            }
            let group = Self { inputs, outputs, ranks, dense, low: None, parts: Vec::new(), bias, kind };
            group.fill(device, linears)?;
            return Ok(group);
        }
        let low = [outputs * ranks, ranks * inputs.next_multiple_of(PAD)];
        let low = [Buffer::zeros(device, low[0] * size)?, Buffer::zeros(device, low[1] * size)?];
        let (mut parts, mut first) = (Vec::new(), 0);
        for linear in linears {
            parts.push(part(device, linear, first)?);
            first += linear.outputs();
        }
        let dense = Buffer::new(device, 0)?;
        Ok(Self { inputs, outputs, ranks, dense, low: Some(low), parts, bias, kind })
    }

    fn fill(&self, device: &Arc<dyn Backend>, linears: &[&Linear]) -> Result<()> {
        if !device.computes() {
            return Ok(());
        }
        let mut first = 0;
        for linear in linears {
            let to = self.dense.at().plus(first * self.pitch_in() * self.kind.size());
            upload(device, linear, self.kind, to, self.pitch_in())?;
            first += linear.outputs();
        }
        Ok(())
    }

    /// Pitch of its input rows: features, then ranks.
    pub(super) fn pitch_in(&self) -> usize {
        (self.inputs + self.ranks).next_multiple_of(PAD)
    }

    /// Pitch of the rows of its output's gradient.
    pub(super) fn pitch_out(&self) -> usize {
        (self.outputs + self.ranks).next_multiple_of(PAD)
    }

    pub(super) fn bias(&self) -> Address {
        self.bias.as_ref().map_or(Address::NONE, Buffer::at)
    }

    /// Bytes of the whole dequantised matrix; 0 if it is stored unquantised.
    pub(super) fn scratch(&self) -> usize {
        if self.parts.is_empty() {
            0
        } else {
            (self.outputs + self.ranks) * self.pitch_in() * self.kind.size()
        }
    }

    /// The locations of the low-rank matrices: `s·B` (with pitch) and `A` (with pitch).
    pub(super) fn low_rank(&self) -> [(Address, usize); 2] {
        let (pitch, size) = (self.pitch_in(), self.kind.size());
        match &self.low {
            Some([b, a]) => [(b.at(), self.ranks), (a.at(), self.inputs.next_multiple_of(PAD))],
            None => {
                let at = self.dense.at();
                [(at.plus(self.inputs * size), pitch), (at.plus(self.outputs * pitch * size), pitch)]
            }
        }
    }

    /// Returns the matrix `[N + R, K + R]`, dequantised into `scratch` if necessary.
    pub(super) fn matrix(&self, kernels: &Kernels, scratch: Address) -> Result<Rows> {
        let (pitch, size) = (self.pitch_in(), self.kind.size());
        let Some([b, a]) = &self.low else { return Ok(Rows::new(self.dense.at(), pitch)) };
        for part in &self.parts {
            let out = Rows::new(scratch.plus(part.first * pitch * size), pitch);
            kernels.dequantise(
                part.blocks.at(),
                (part.kind, part.blocks.bytes()),
                (part.rows, self.inputs),
                out,
            )?;
        }
        if self.ranks > 0 {
            let pitches = [pitch * size, self.ranks * size];
            let right = scratch.plus(self.inputs * size);
            kernels.device.copy(right, b.at(), pitches, self.ranks * size, self.outputs)?;
            let below = scratch.plus(self.outputs * pitch * size);
            let pitches = [pitch * size, self.inputs.next_multiple_of(PAD) * size];
            kernels.device.copy(below, a.at(), pitches, self.inputs * size, self.ranks)?;
        }
        Ok(Rows::new(scratch, pitch))
    }
}

/// Copies a matrix to the device as stored, quantised or not; the kernel supports every storage type.
fn part(device: &Arc<dyn Backend>, linear: &Linear, first: usize) -> Result<Part> {
    let weight = linear.weight();
    let blocks = Buffer::new(device, weight.bytes().len())?;
    if device.computes() {
        blocks.write(weight.bytes())?;
        weight.release();
    }
    Ok(Part { blocks, kind: code(weight), first, rows: linear.outputs() })
}

/// Returns all biases of a group, with zeros for linears without a bias; `None` if no linear has one.
fn biases(linears: &[&Linear]) -> Option<Vec<f32>> {
    linears.iter().any(|linear| linear.bias().is_some()).then(|| {
        let of =
            |linear: &&Linear| linear.bias().map_or_else(|| vec![0.0; linear.outputs()], <[f32]>::to_vec);
        linears.iter().flat_map(of).collect()
    })
}

/// Copies `W [out, in]` to the device as `kind`, in parts.
fn upload(device: &Arc<dyn Backend>, linear: &Linear, kind: Kind, to: Address, pitch: usize) -> Result<()> {
    let (weight, inputs, outputs) = (linear.weight(), linear.inputs(), linear.outputs());
    let size = kind.size();
    let same =
        matches!((weight.dtype(), kind), (Some(DType::Bf16), Kind::Bf16) | (Some(DType::F32), Kind::F32));
    if same && !linear.transposed() {
        device.upload(to, pitch * size, weight.bytes(), inputs * size)?;
        weight.release();
        return Ok(());
    }
    let rows = (PART / (inputs * size).max(1)).max(1);
    let mut row = vec![0.0f32; inputs];
    for first in (0..outputs).step_by(rows) {
        let mut bytes = Vec::with_capacity(rows * inputs * size);
        for output in first..(first + rows).min(outputs) {
            linear.output_row(output, &mut row);
            match kind {
                Kind::F32 => bytes.extend_from_slice(bytemuck::cast_slice(&row)),
                Kind::Bf16 => bytes.extend(row.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())),
            }
        }
        device.upload(to.plus(first * pitch * size), pitch * size, &bytes, inputs * size)?;
    }
    weight.release();
    Ok(())
}
