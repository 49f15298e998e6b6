//! The trained adapter on the device: its gradient, the optimizer's step, and copies for the host.

use super::Engine;
use super::kernels::CHUNK;
use crate::device::{Address, Arg, Buffer, Launch};
use crate::error::{Error, Result};

/// An optimizer's step: a kernel of `optimizer.cu` with the step's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Its name.
    pub kernel: &'static str,
    /// Moments that it keeps, each as long as the parameters.
    pub moments: usize,
    /// Its arguments behind the factor of the gradient.
    pub scalars: Vec<f32>,
}

impl Engine {
    /// Forgets the gradient.
    pub(in crate::model) fn clear_gradient(&mut self) {
        self.fresh = true;
    }

    fn parameters(&self) -> Result<(Address, usize)> {
        let values = self.matrices.values();
        let values =
            values.ok_or_else(|| Error::Model("there is no adapter to train on this device".into()))?;
        Ok((values.at(), values.bytes() / 4))
    }

    fn gradient(&self) -> Result<&Buffer> {
        let gradient = self.matrices.gradient(&self.kernels())?;
        let gradient =
            gradient.ok_or_else(|| Error::Model("there is no adapter to train on this device".into()))?;
        if self.fresh {
            self.device.zero(gradient.at(), gradient.bytes(), gradient.bytes(), 1)?;
        }
        Ok(gradient)
    }

    /// The gradient, laid out as the trained adapter's numbers.
    pub(in crate::model) fn gradient_values(&self) -> Result<Vec<f32>> {
        self.gradient()?.read()
    }

    /// The gradient's norm.
    pub(in crate::model) fn gradient_norm(&mut self) -> Result<f64> {
        let at = self.gradient()?.at();
        Ok(self.square_sum(at)?.sqrt())
    }

    /// The sum of the squares of the trained adapter's numbers: not finite if one of them is not.
    pub(in crate::model) fn size(&mut self) -> Result<f64> {
        let (at, _) = self.parameters()?;
        self.square_sum(at)
    }

    /// Σ x² over as many numbers as there are parameters.
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

    /// Steps the trained adapter along its gradient times `clip`.
    pub(in crate::model) fn update(&mut self, update: &Update, clip: f32) -> Result<()> {
        let (values, count) = self.parameters()?;
        while self.moments.len() < update.moments {
            self.moments.push(Buffer::zeros(&self.device, 4 * count)?);
        }
        // As `gradient_norm` left it.
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

    /// The trained adapter's numbers.
    pub(in crate::model) fn trained_values(&self) -> Result<Vec<f32>> {
        self.matrices.values().map_or_else(|| Ok(Vec::new()), Buffer::read)
    }

    /// The host has the device's numbers, as this version.
    pub(in crate::model) fn fetched(&mut self, version: u64) {
        self.ahead = false;
        self.matrices.fetched(version);
    }

    /// The optimizer's moments; none before the first step.
    pub(in crate::model) fn moments(&self) -> Result<Vec<Vec<f32>>> {
        self.moments.iter().map(Buffer::read).collect()
    }

    /// Takes up moments.
    pub(in crate::model) fn set_moments(&mut self, moments: &[&[f32]]) -> Result<()> {
        self.moments =
            moments.iter().map(|moment| Buffer::of(&self.device, moment)).collect::<Result<_>>()?;
        Ok(())
    }
}
