//! From tensors to slices and back: a CPU tensor's numbers, borrowed, and a tensor made of an owned buffer.

use std::ops::Deref;

use candle_core::{Device, Shape, Storage, Tensor};

use crate::error::{Error, Result};

/// The numbers of a contiguous f32 CPU tensor. Holds the tensor's read lock.
pub struct Host<G> {
    storage: G,
    start: usize,
    end: usize,
}

/// Borrows a tensor's numbers, row-major.
///
/// # Errors
/// If the tensor is not contiguous f32 on the CPU.
pub fn read(tensor: &Tensor) -> Result<Host<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Model(format!("a tensor of shape {:?} is not contiguous", tensor.dims())));
    };
    match &*storage {
        Storage::Cpu(cpu) => cpu.as_slice::<f32>().map(|_| ())?,
        _ => return Err(Error::Model("a tensor of another device reached a CPU operation".into())),
    }
    Ok(Host { storage, start, end })
}

impl<G: Deref<Target = Storage>> Deref for Host<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(cpu) => cpu.as_slice::<f32>().map_or(&[], |all| &all[self.start..self.end]),
            _ => &[],
        }
    }
}

/// A CPU tensor that owns `data`, without copying it.
///
/// # Errors
/// If the shape does not hold just these numbers.
pub fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape.into(), &Device::Cpu)?)
}

/// A new `[rows, columns]` buffer, each row written by `fill(row, out)`, rows in parallel.
pub fn build_rows(rows: usize, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    update_rows(&mut out, columns, fill);
    out
}

/// Changes each row of `[rows, columns]` in place, rows in parallel.
pub fn update_rows(out: &mut [f32], columns: usize, change: impl Fn(usize, &mut [f32]) + Sync) {
    use rayon::prelude::*;
    // Enough numbers a task to be worth a hand-over between threads.
    let chunk = (1usize << 14).div_ceil(columns.max(1)).max(1);
    if out.len() <= 1 << 14 {
        out.chunks_exact_mut(columns.max(1)).enumerate().for_each(|(row, out)| change(row, out));
        return;
    }
    out.par_chunks_mut(chunk * columns).enumerate().for_each(|(c, rows)| {
        for (r, out) in rows.chunks_exact_mut(columns).enumerate() {
            change(c * chunk + r, out);
        }
    });
}
