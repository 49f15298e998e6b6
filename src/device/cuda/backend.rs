//! [`Backend`] for an NVIDIA GPU.

use std::ffi::{c_uint, c_void};
use std::ptr;

use super::super::ffi::{self, Copy2d};
use super::super::products::WORKSPACE;
use super::super::profile::{self, Entry};
use super::super::{Address, Arg, Backend, Description, Form, Launch, Product, Stream};
use super::{Cuda, OUT_OF_MEMORY, Timed};
use crate::error::{Error, Result};

/// A copy to a device whose source is not set yet.
fn to_device(to: Address, pitch: usize, row: usize, rows: usize) -> Copy2d {
    Copy2d {
        src_x: 0,
        src_y: 0,
        src_type: ffi::HOST,
        src_host: ptr::null(),
        src_device: 0,
        src_array: ptr::null_mut(),
        src_pitch: row,
        dst_x: 0,
        dst_y: 0,
        dst_type: ffi::DEVICE,
        dst_host: ptr::null_mut(),
        dst_device: to.0,
        dst_array: ptr::null_mut(),
        dst_pitch: pitch,
        width: row,
        height: rows,
    }
}

impl Backend for Cuda {
    fn describe(&self) -> Description {
        let (mut free, mut total) = (0, 0);
        if self.enter().is_ok() {
            // SAFETY: both numbers are written.
            unsafe { (self.driver.memory)(&mut free, &mut total) };
        }
        Description { memory: (total, free), ..self.description.clone() }
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let _state = self.enter()?;
        let mut at = 0;
        // SAFETY: the address is written.
        let status = unsafe { (self.driver.allocate)(&mut at, bytes) };
        if status == OUT_OF_MEMORY {
            return Err(Error::Device(format!(
                "the GPU has no room for another {:.2} GB: set train.gradient_checkpointing: true, lower \
                 train.per_device_train_batch_size, train.max_tokens_per_batch or data.max_length, or end other programs \
                 on this GPU",
                bytes as f64 / 1e9
            )));
        }
        self.check("cuMemAlloc", status)?;
        Ok(Address(at))
    }

    fn free(&self, at: Address) {
        if self.enter().is_ok() {
            // SAFETY: the address came from `allocate`; the driver waits for work that uses it.
            unsafe { (self.driver.free)(at.0) };
        }
    }

    fn upload(&self, to: Address, pitch: usize, bytes: &[u8], row: usize) -> Result<()> {
        let _state = self.enter()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if row == pitch || row == bytes.len() {
            // SAFETY: the target is the caller's; a copy from pageable memory has read its source when the call returns.
            return self.check("cuMemcpyHtoD", unsafe {
                (self.driver.upload)(to.0, bytes.as_ptr().cast(), bytes.len(), self.stream)
            });
        }
        // Whole sequences of rows are copied over the bus at once, through the workspace, and spread out on the device.
        for (i, part) in bytes.chunks((WORKSPACE / row).max(1) * row).enumerate() {
            if row > WORKSPACE {
                return Err(Error::Device(format!("a row of {row} bytes is longer than the workspace")));
            }
            // SAFETY: the workspace is as large, and is used in the order of the stream.
            self.check("cuMemcpyHtoD", unsafe {
                (self.driver.upload)(self.workspace.0, part.as_ptr().cast(), part.len(), self.stream)
            })?;
            let first = i * (WORKSPACE / row);
            let copy = to_device(to.plus(first * pitch), pitch, row, part.len() / row);
            self.copy2d(&Copy2d {
                src_type: ffi::DEVICE,
                src_device: self.workspace.0,
                src_pitch: row,
                ..copy
            })?;
        }
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        let _state = self.enter()?;
        // SAFETY: the target is as large as said, and waited for before this returns.
        let status =
            unsafe { (self.driver.download)(bytes.as_mut_ptr().cast(), from.0, bytes.len(), self.stream) };
        self.check("cuMemcpyDtoH", status)?;
        self.wait()
    }

    fn zero(&self, at: Address, pitch: usize, row: usize, rows: usize) -> Result<()> {
        let _state = self.enter()?;
        if row == 0 || rows == 0 {
            return Ok(());
        }
        // SAFETY: the memory is the caller's.
        let status = unsafe {
            if rows == 1 || row == pitch {
                (self.driver.fill)(at.0, 0, row * rows, self.stream)
            } else {
                (self.driver.fill_rows)(at.0, pitch, 0, row, rows, self.stream)
            }
        };
        self.check("cuMemset", status)
    }

    fn copy(&self, to: Address, from: Address, pitches: [usize; 2], row: usize, rows: usize) -> Result<()> {
        let _state = self.enter()?;
        if row == 0 || rows == 0 {
            return Ok(());
        }
        let copy = to_device(to, pitches[0], row, rows);
        self.copy2d(&Copy2d { src_type: ffi::DEVICE, src_device: from.0, src_pitch: pitches[1], ..copy })
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        launch.check()?;
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let mut state = self.enter()?;
        let function = self.function(&mut state, launch)?;
        // A pointer to each argument's value.
        let mut args: Vec<*mut c_void> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::At(at) => ptr::from_ref(&at.0).cast_mut().cast(),
                Arg::Int(value) => ptr::from_ref(value).cast_mut().cast(),
                Arg::Long(value) => ptr::from_ref(value).cast_mut().cast(),
                Arg::Float(value) => ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        let [x, y] = launch.grid.map(|n| n as c_uint);
        self.timed(&mut state, (launch.name, launch.bytes, launch.flop), |_| {
            // SAFETY: the arguments are those of the kernel, in order; the driver has read them when the call returns.
            self.check(launch.name, unsafe {
                (self.driver.launch)(
                    function,
                    x,
                    y,
                    1,
                    launch.block as c_uint,
                    1,
                    1,
                    launch.shared as c_uint,
                    self.stream,
                    args.as_mut_ptr(),
                    ptr::null_mut(),
                )
            })
        })
    }

    fn product(&self, product: &Product) -> Result<()> {
        let mut state = self.enter()?;
        let name = if state.timed.is_some() { product_name(product) } else { String::new() };
        let stream = self.stream;
        self.timed(&mut state, (&name, product.bytes(), product.flop()), |state| {
            state.products.run(product, stream)
        })
    }

    fn on_stream(&self, work: &mut dyn FnMut(Stream) -> Result<()>) -> Result<()> {
        let _state = self.enter()?;
        work(Stream(self.stream))
    }

    fn synchronise(&self) -> Result<()> {
        let _state = self.enter()?;
        self.wait()
    }

    fn profile(&self, on: bool) {
        if let Ok(mut state) = self.enter() {
            for event in state.timed.take().into_iter().flatten().flat_map(|timed| timed.events) {
                // SAFETY: made by `event`, and used no more.
                unsafe { (self.driver.event_destroy)(event) };
            }
            state.timed = on.then(Vec::new);
        }
    }

    fn times(&self) -> Result<Vec<Entry>> {
        let state = self.enter()?;
        self.wait()?;
        let mut entries = Vec::new();
        for Timed { events: [before, after], name, bytes, flop } in state.timed.iter().flatten() {
            profile::add(&mut entries, name, self.elapsed(*before, *after)?, *bytes, *flop);
        }
        Ok(entries)
    }
}

/// A name made of the sizes: products of the same sizes are one line of a profile.
fn product_name(product: &Product) -> String {
    let [m, n, k] = product.shape;
    match product.form {
        Form::Forward => format!("product x·Wᵀ n={n} k={k}"),
        Form::Backward => format!("product dy·W n={n} k={k}"),
        Form::Weight => format!("product dyᵀ·x m={m} n={n}"),
    }
}
