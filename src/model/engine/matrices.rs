//! The adapters' values and the trained adapter's gradient on the device, in flat buffers with the host's layout.

use std::sync::Arc;

use super::kernels::Kernels;
use super::lora::{Adapters, Entry, Mapped, Role};
use crate::device::{Backend, Buffer};
use crate::error::Result;

/// An adapter's values, and the table of their copies.
struct OnDevice {
    values: Buffer,
    table: Buffer,
    entries: usize,
    numbers: usize,
}

/// The trained adapter's gradient.
struct Gradient {
    values: Buffer,
    table: Buffer,
    entries: usize,
}

/// All adapters of a decoder.
pub(super) struct Matrices {
    adapters: Vec<OnDevice>,
    versions: Vec<u64>,
    gradient: Option<Gradient>,
    trained: Option<usize>,
}

impl Matrices {
    /// Copies the adapters' values to the device and around the frozen matrices.
    pub(super) fn new(
        device: &Arc<dyn Backend>,
        kernels: &Kernels,
        adapters: &Adapters,
        all: &[&Mapped],
    ) -> Result<Self> {
        let mut matrices =
            Self { adapters: Vec::new(), versions: adapters.versions(), gradient: None, trained: None };
        for (i, placed) in adapters.0.iter().enumerate() {
            let numbers = placed.set.values();
            let entries: Vec<Entry> =
                all.iter().flat_map(|mapped| mapped.entries(i, placed, kernels.kind)).collect();
            let on_device = OnDevice {
                values: Buffer::of(device, numbers)?,
                table: Buffer::of(device, &entries)?,
                entries: entries.len(),
                numbers: numbers.len(),
            };
            on_device.pack(kernels)?;
            matrices.adapters.push(on_device);
            if placed.role == Role::Trained {
                let entries: Vec<Entry> =
                    all.iter().flat_map(|mapped| mapped.gradient_entries(placed)).collect();
                let values = Buffer::zeros(device, 4 * numbers.len())?;
                let table = Buffer::of(device, &entries)?;
                matrices.gradient = Some(Gradient { values, table, entries: entries.len() });
                matrices.trained = Some(i);
            }
        }
        Ok(matrices)
    }

    /// Copies the values that have changed on the host since the last call. Returns whether the trained adapter's are
    /// among them.
    pub(super) fn refresh(&mut self, kernels: &Kernels, adapters: &Adapters) -> Result<bool> {
        let mut replaced = false;
        for (i, placed) in adapters.0.iter().enumerate() {
            if self.versions[i] != placed.set.version() {
                self.adapters[i].values.write(bytemuck::cast_slice(placed.set.values()))?;
                self.adapters[i].pack(kernels)?;
                self.versions[i] = placed.set.version();
                replaced |= placed.role == Role::Trained;
            }
        }
        Ok(replaced)
    }

    /// Records that the host has the device's values, as version `version`.
    pub(super) fn fetched(&mut self, version: u64) {
        if let Some(trained) = self.trained {
            self.versions[trained] = version;
        }
    }

    /// The trained adapter's values.
    pub(super) fn values(&self) -> Option<&Buffer> {
        self.trained.map(|i| &self.adapters[i].values)
    }

    /// Copies the trained adapter's changed values to where products read them.
    pub(super) fn pack(&self, kernels: &Kernels) -> Result<()> {
        self.trained.map_or(Ok(()), |i| self.adapters[i].pack(kernels))
    }

    /// The buffer that [`Matrices::gradient`] writes.
    pub(super) fn gradient_buffer(&self) -> Option<&Buffer> {
        self.gradient.as_ref().map(|gradient| &gradient.values)
    }

    /// Collects the gradient of the trained adapter, with the layout of its values.
    pub(super) fn gradient(&self, kernels: &Kernels) -> Result<Option<&Buffer>> {
        let Some(Gradient { values, table, entries }) = &self.gradient else { return Ok(None) };
        kernels.unpack((table.at(), *entries), values.at(), values.bytes() / 4)?;
        Ok(Some(values))
    }
}

impl OnDevice {
    fn pack(&self, kernels: &Kernels) -> Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        kernels.pack(self.values.at(), (self.table.at(), self.entries), self.numbers)
    }
}
