//! Device memory that is released on drop.

use std::sync::Arc;

use super::{Address, Backend};
use crate::error::Result;

/// A piece of a device's memory.
pub struct Buffer {
    device: Arc<dyn Backend>,
    at: Address,
    bytes: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("at", &self.at).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Buffer {
    /// Uninitialised memory of this many bytes.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn new(device: &Arc<dyn Backend>, bytes: usize) -> Result<Self> {
        Ok(Self { device: device.clone(), at: device.allocate(bytes.max(16))?, bytes })
    }

    /// Memory filled with zeros.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn zeros(device: &Arc<dyn Backend>, bytes: usize) -> Result<Self> {
        let buffer = Self::new(device, bytes)?;
        device.zero(buffer.at, bytes, bytes, 1)?;
        Ok(buffer)
    }

    /// A copy of numbers from the host.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn of<T: bytemuck::NoUninit>(device: &Arc<dyn Backend>, numbers: &[T]) -> Result<Self> {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        let buffer = Self::new(device, bytes.len())?;
        buffer.write(bytes)?;
        Ok(buffer)
    }

    /// Its address.
    pub fn at(&self) -> Address {
        self.at
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Overwrites its beginning.
    ///
    /// # Errors
    /// If the device fails.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.upload(self.at, bytes.len(), bytes, bytes.len())
    }

    /// Its numbers.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read<T: bytemuck::Pod>(&self) -> Result<Vec<T>> {
        let mut numbers = vec![T::zeroed(); self.bytes / size_of::<T>()];
        if !numbers.is_empty() {
            self.device.download(self.at, bytemuck::cast_slice_mut(&mut numbers))?;
        }
        Ok(numbers)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.device.free(self.at);
    }
}
