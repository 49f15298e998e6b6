//! The kernels compiled for the CPU (`tests/device/build_host.sh`), with plain loops for the products: the code of a GPU, run
//! without one. It is slow, and made for tests.

use std::ffi::{c_uint, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use half::bf16;
use libloading::{Library, Symbol};
use rayon::prelude::*;

use super::profile::Entry;
use super::{Address, Arg, Backend, Description, Form, Kind, Launch, Matrix, Product};
use crate::error::{Error, Result};

/// A kernel's entry point: blocks in three dimensions, threads, bytes of shared memory, pointers to the arguments.
type Entrance = unsafe extern "C" fn(c_uint, c_uint, c_uint, c_uint, c_uint, *mut *mut c_void);

/// Sets which blocks of its next grid a thread runs: the first, and their number.
type Range = unsafe extern "C" fn(c_uint, c_uint);

/// Bytes of memory that it says it has, so that every run of a tiny model fits.
const ROOM: usize = 64 << 30;

/// Kernels on the CPU.
pub struct Host {
    library: Library,
    /// The blocks of a grid are run in order, possibly by several threads.
    in_order: bool,
    /// Allocations, by address.
    memory: Mutex<Vec<Box<[u64]>>>,
}

impl Host {
    /// Opens a library of compiled kernels.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn open(library: &Path) -> Result<Self> {
        // SAFETY: our own kernels, which do nothing when they are loaded.
        let opened = unsafe { Library::new(library) };
        let library = opened.map_err(|e| Error::Device(format!("cannot load {}: {e}", library.display())))?;
        let in_order = std::env::var("SHIM_ORDER").map_or(true, |order| order == "forward");
        Ok(Self { library, in_order, memory: Mutex::default() })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be its type.
    unsafe fn function<F>(&self, name: &str) -> Result<Symbol<'_, F>> {
        // SAFETY: as the caller promised.
        let found = unsafe { self.library.get::<F>(name.as_bytes()) };
        found.map_err(|e| Error::Device(format!("the library of kernels has no {name}: {e}")))
    }
}

/// Memory at an address.
///
/// # Safety
/// The memory must be the caller's, for `bytes` bytes, and not be written meanwhile.
unsafe fn slice<'a>(at: Address, bytes: usize) -> &'a mut [u8] {
    // SAFETY: as the caller promised.
    unsafe { std::slice::from_raw_parts_mut(at.0 as *mut u8, bytes) }
}

fn get(matrix: &Matrix, row: usize, column: usize) -> f32 {
    let index = row * matrix.pitch + column;
    // SAFETY: within the matrix, by the shape of the product.
    unsafe {
        match matrix.kind {
            Kind::F32 => (matrix.at.0 as *const f32).add(index).read_unaligned(),
            Kind::Bf16 => (matrix.at.0 as *const bf16).add(index).read_unaligned().to_f32(),
        }
    }
}

fn set(matrix: &Matrix, row: usize, column: usize, value: f32) {
    let index = row * matrix.pitch + column;
    // SAFETY: as above.
    unsafe {
        match matrix.kind {
            Kind::F32 => (matrix.at.0 as *mut f32).add(index).write_unaligned(value),
            Kind::Bf16 => (matrix.at.0 as *mut bf16).add(index).write_unaligned(bf16::from_f32(value)),
        }
    }
}

/// `[rows, columns]` as f32, row after row.
fn wide(matrix: &Matrix, rows: usize, columns: usize) -> Vec<f32> {
    (0..rows).flat_map(|i| (0..columns).map(move |j| get(matrix, i, j))).collect()
}

/// Its transpose.
fn turned(matrix: &Matrix, rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| get(matrix, i, j))).collect()
}

impl Backend for Host {
    fn describe(&self) -> Description {
        Description { name: "host".into(), versions: "kernels on the processor".into(), memory: (ROOM, ROOM) }
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // Filled with NaN, so that reading memory that was never written shows in the result.
        let memory = vec![u64::MAX; bytes.div_ceil(8) + 2].into_boxed_slice();
        let at = memory.as_ptr() as u64;
        let aligned = at.next_multiple_of(16);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        Ok(Address(aligned))
    }

    fn free(&self, at: Address) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.retain(|piece| (piece.as_ptr() as u64).next_multiple_of(16) != at.0);
    }

    fn upload(&self, to: Address, pitch: usize, bytes: &[u8], row: usize) -> Result<()> {
        for (i, bytes) in bytes.chunks(row.max(1)).enumerate() {
            // SAFETY: the caller's memory.
            unsafe { slice(to.plus(i * pitch), bytes.len()) }.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's memory.
        bytes.copy_from_slice(unsafe { slice(from, bytes.len()) });
        Ok(())
    }

    fn zero(&self, at: Address, pitch: usize, row: usize, rows: usize) -> Result<()> {
        for i in 0..rows {
            // SAFETY: the caller's memory.
            unsafe { slice(at.plus(i * pitch), row) }.fill(0);
        }
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, pitches: [usize; 2], row: usize, rows: usize) -> Result<()> {
        for i in 0..rows {
            // SAFETY: the caller's memory, two different pieces.
            unsafe {
                let source = slice(from.plus(i * pitches[1]), row);
                slice(to.plus(i * pitches[0]), row).copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        launch.check()?;
        if launch.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the library's functions have these types.
        let (entrance, range) = unsafe {
            (
                self.function::<Entrance>(&format!("emu_{}", launch.name))?,
                self.function::<Range>("shim_range")?,
            )
        };
        let values: Vec<u64> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::At(at) => at.0,
                Arg::Int(value) => u64::from(*value as u32),
                Arg::Long(value) => *value,
                Arg::Float(value) => u64::from(value.to_bits()),
            })
            .collect();
        let blocks = launch.grid[0] * launch.grid[1];
        let share = if self.in_order { blocks.div_ceil(4 * rayon::current_num_threads()) } else { blocks };
        (0..blocks.div_ceil(share)).into_par_iter().for_each(|task| {
            let mut values = values.clone();
            let mut args: Vec<*mut c_void> =
                values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
            let [x, y] = launch.grid.map(|n| n as c_uint);
            // SAFETY: the arguments are those of the kernel, little-endian, in order; its blocks do not meet.
            unsafe {
                range((task * share) as c_uint, share as c_uint);
                entrance(x, y, 1, launch.block as c_uint, launch.shared as c_uint, args.as_mut_ptr());
            }
        });
        Ok(())
    }

    fn product(&self, product: &Product) -> Result<()> {
        if product.parts > 1 {
            return (0..product.parts).try_for_each(|p| self.product(&product.part(p)));
        }
        let Product { form, shape: [m, n, k], a, b, c, add, .. } = *product;
        // Rows of both operands, each as long as the sums.
        let (left, right) = match form {
            Form::Forward => (wide(&a, m, k), wide(&b, n, k)),
            Form::Backward => (wide(&a, m, k), turned(&b, k, n)),
            Form::Weight => (turned(&a, k, m), turned(&b, k, n)),
        };
        let sums: Vec<f32> = left
            .par_chunks_exact(k.max(1))
            .flat_map_iter(|x| {
                right.chunks_exact(k.max(1)).map(|y| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>())
            })
            .collect();
        for (i, sums) in sums.chunks_exact(n.max(1)).enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let before = if add { get(&c, i, j) } else { 0.0 };
                set(&c, i, j, before + sum);
            }
        }
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        Ok(())
    }

    fn profile(&self, _on: bool) {}

    fn times(&self) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }
}
