//! Memory for forward and backward passes: two stacks in slabs of device memory. One keeps what the backward pass needs; the
//! other holds what a block needs while it computes.

use std::sync::Arc;

use super::{Address, Backend, Buffer};
use crate::error::Result;

/// Every piece starts at a multiple of this.
const ALIGNMENT: usize = 256;
/// The smallest size of a slab.
const SLAB: usize = 32 << 20;

/// A stack of pieces.
pub struct Arena {
    device: Arc<dyn Backend>,
    slabs: Vec<Buffer>,
    /// Slab and offset of the next piece.
    top: Mark,
    in_use: usize,
    peak: usize,
}

/// A position in the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    slab: usize,
    offset: usize,
    in_use: usize,
}

impl Arena {
    /// An empty stack.
    pub fn new(device: &Arc<dyn Backend>) -> Self {
        Self { device: device.clone(), slabs: Vec::new(), top: Mark::default(), in_use: 0, peak: 0 }
    }

    /// The current position.
    pub fn mark(&self) -> Mark {
        Mark { in_use: self.in_use, ..self.top }
    }

    /// Removes all pieces added since `mark`. Work that uses them may still be running: later pieces at the same place are
    /// written after it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn reset(&mut self, mark: Mark) -> Result<()> {
        (self.top, self.in_use) = (mark, mark.in_use);
        // One slab that holds everything that was needed, allocated before the next pass starts.
        if mark == Mark::default() && self.slabs.len() > 1 {
            self.device.synchronise()?;
            self.slabs.clear();
            self.slabs.push(Buffer::new(&self.device, self.peak.max(SLAB))?);
        }
        Ok(())
    }

    /// A piece of `bytes` bytes.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn take(&mut self, bytes: usize) -> Result<Address> {
        let size = bytes.max(1).next_multiple_of(ALIGNMENT);
        while self.slabs.get(self.top.slab).is_some_and(|slab| self.top.offset + size > slab.bytes()) {
            self.top = Mark { slab: self.top.slab + 1, offset: 0, in_use: 0 };
        }
        if self.top.slab >= self.slabs.len() {
            self.slabs.push(Buffer::new(&self.device, size.max(SLAB))?);
        }
        let at = self.slabs[self.top.slab].at().plus(self.top.offset);
        self.top.offset += size;
        self.in_use += size;
        self.peak = self.peak.max(self.in_use);
        Ok(at)
    }

    /// A piece with a copy of numbers from the host.
    ///
    /// # Errors
    /// As [`Arena::take`].
    pub fn put<T: bytemuck::NoUninit>(&mut self, numbers: &[T]) -> Result<Address> {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        let at = self.take(bytes.len())?;
        if !bytes.is_empty() {
            self.device.upload(at, bytes.len(), bytes, bytes.len())?;
        }
        Ok(at)
    }

    /// The largest number of bytes in use at once.
    pub fn peak(&self) -> usize {
        self.peak
    }
}
