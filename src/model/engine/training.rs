//! The trained adapter on the device: its gradient, the optimizer step, and copies to the host.

use super::Engine;
use super::kernels::CHUNK;
use crate::device::{Address, Arg, Buffer, Launch};
use crate::error::{Error, Result};

/// An optimizer step: a kernel of `optimizer.cu` and its arguments for this step.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Number of moments, each as long as the parameters.
    pub moments: usize,
    /// Its arguments after the gradient's factor.
    pub scalars: Vec<f32>,
}

impl Engine {
    /// Discards the gradient.
    pub(in crate::model) fn clear_gradient(&mut self) {
        (self.fresh, self.given) = (true, false);
    }

    fn parameters(&self) -> Result<(Address, usize)> {
        let values = self.matrices.values();
        let values =
            values.ok_or_else(|| Error::Model("there is no adapter to train on this device".into()))?;
        Ok((values.at(), values.bytes() / 4))
    }

    fn gradient(&self) -> Result<&Buffer> {
        if let (true, Some(given)) = (self.given, self.matrices.gradient_buffer()) {
            return Ok(given);
        }
        let gradient = self.matrices.gradient(&self.kernels())?;
        let gradient =
            gradient.ok_or_else(|| Error::Model("there is no adapter to train on this device".into()))?;
        if self.fresh {
            self.device.zero(gradient.at(), gradient.bytes(), gradient.bytes(), 1)?;
        }
        Ok(gradient)
    }

    /// Returns the gradient, with the layout of the trained adapter's values.
    pub(in crate::model) fn gradient_values(&self) -> Result<Vec<f32>> {
        self.gradient()?.read()
    }

    /// Returns a copy of the gradient on the device.
    pub(in crate::model) fn gradient_copy(&self) -> Result<Buffer> {
        let gradient = self.gradient()?;
        let bytes = gradient.bytes();
        let copy = Buffer::new(&self.device, bytes)?;
        self.device.copy(copy.at(), gradient.at(), [bytes, bytes], bytes, 1)?;
        Ok(copy)
    }

    /// Replaces the gradient by what `fill` makes of zeros.
    pub(in crate::model) fn give_gradient(&mut self, fill: impl FnOnce(&Buffer) -> Result<()>) -> Result<()> {
        let gradient = self.matrices.gradient_buffer();
        let gradient =
            gradient.ok_or_else(|| Error::Model("there is no adapter to train on this device".into()))?;
        self.device.zero(gradient.at(), gradient.bytes(), gradient.bytes(), 1)?;
        fill(gradient)?;
        self.given = true;
        Ok(())
    }

    /// Returns the norm of the gradient.
    pub(in crate::model) fn gradient_norm(&mut self) -> Result<f64> {
        let at = self.gradient()?.at();
        Ok(self.square_sum(at)?.sqrt())
    }

    /// Returns the sum of squares of the trained adapter's values; it is not finite if a value is not.
    pub(in crate::model) fn size(&mut self) -> Result<f64> {
        let (at, _) = self.parameters()?;
        self.square_sum(at)
    }

    /// Returns Σ x² over as many values as there are parameters.
    fn square_sum(&mut self, at: Address) -> Result<f64> {
        let (_, count) = self.parameters()?;
        let parts = count.div_ceil(CHUNK);
        let mark = self.temp.mark();
        let partial = self.temp.take(8 * parts)?;
        self.device.launch(&Launch {
            module: "optimizer",
            name: "square_sums",
            grid: [parts, 1],
            block: 256,
            shared: 0,
            args: &[at.into(), Arg::Long(count as u64), partial.into()],
            bytes: 4 * count,
            flop: 0,
        })?;
        let mut sums = vec![0f64; parts];
        self.device.download(partial, bytemuck::cast_slice_mut(&mut sums))?;
        self.temp.reset(mark)?;
        Ok(sums.iter().sum())
    }

    /// Updates the trained adapter with its gradient times `clip`.
    pub(in crate::model) fn update(&mut self, update: &Update, clip: f32) -> Result<()> {
        let (values, count) = self.parameters()?;
        while self.moments.len() < update.moments {
            self.moments.push(Buffer::zeros(&self.device, 4 * count)?);
        }
        // The gradient was collected by `gradient_norm`.
        let gradient = self.matrices.gradient_buffer().map_or(Address::NONE, Buffer::at);
        let mut args = vec![Arg::At(values), Arg::At(gradient)];
        args.extend(self.moments.iter().take(update.moments).map(|moment| Arg::At(moment.at())));
        args.extend([Arg::Long(count as u64), Arg::Float(clip)]);
        args.extend(update.scalars.iter().map(|scalar| Arg::Float(*scalar)));
        self.device.launch(&Launch {
            module: "optimizer",
            name: update.kernel,
            grid: [count.div_ceil(1024), 1],
            block: 256,
            shared: 0,
            args: &args,
            bytes: 4 * count * (3 + 2 * update.moments),
            flop: 0,
        })?;
        self.ahead = true;
        self.matrices.pack(&self.kernels())
    }

    /// Returns the trained adapter's values.
    pub(in crate::model) fn trained_values(&self) -> Result<Vec<f32>> {
        self.matrices.values().map_or_else(|| Ok(Vec::new()), Buffer::read)
    }

    /// Records that the host has the device's values, as version `version`.
    pub(in crate::model) fn fetched(&mut self, version: u64) {
        self.ahead = false;
        self.matrices.fetched(version);
    }

    /// Returns the optimizer's moments; empty before the first step.
    pub(in crate::model) fn moments(&self) -> Result<Vec<Vec<f32>>> {
        self.moments.iter().map(Buffer::read).collect()
    }

    /// Sets the optimizer's moments.
    pub(in crate::model) fn set_moments(&mut self, moments: &[&[f32]]) -> Result<()> {
        self.moments =
            moments.iter().map(|moment| Buffer::of(&self.device, moment)).collect::<Result<_>>()?;
        Ok(())
    }
}
