//! The decoder on a device: the resident frozen weights, forward and backward passes, and the trained adapter's values,
//! gradient and optimizer. Only tokens are copied to the device, and only log-probs are copied back.
//!
//! The residual stream and its gradient are f32; all other activations have the [`Kind`] of the weights, with f32 sums.
//! Everything runs in order on one stream, no result depends on the order of thread blocks, and every sum has a fixed
//! order, so the same inputs give the same bytes.

mod backward;
mod base;
mod batch;
mod decode;
mod forward;
mod head;
mod kernels;
mod layer;
mod lora;
mod matrices;
mod passes;
mod plan;
mod training;
mod weights;

use std::sync::Arc;

use self::batch::AngleTables;
use self::head::Head;
use self::kernels::Kernels;
use self::layer::Layer;
use self::lora::Route;
use self::matrices::Matrices;
use self::weights::{NormOn, Table};
use super::pass::Pass;
use super::spec::DecoderSpec;
use crate::device::{Address, Arena, Backend, Buffer, Kind};
use crate::error::Result;
use crate::trainable::{Dropout, Lora};

pub(in crate::model) use base::Base;
pub(in crate::model) use batch::Input;
pub use decode::{DeviceCache, Next};
pub(in crate::model) use lora::Adapters;
pub use passes::DeviceTape;
pub(in crate::model) use plan::plan;
pub use plan::{Plan, Step};
pub use training::Update;

/// A decoder on a device.
pub struct Engine {
    device: Arc<dyn Backend>,
    kind: Kind,
    spec: DecoderSpec,
    embedding: Table,
    positions: Option<Table>,
    layers: Arc<[Layer]>,
    final_norm: NormOn,
    head: Head,
    matrices: Matrices,
    layout: Vec<(bool, Vec<Lora>)>,
    trains: bool,
    /// Memory for a dequantised matrix.
    scratch: Option<Buffer>,
    angles: AngleTables,
    keep: Arena,
    temp: Arena,
    /// The id of the tape stored on `keep`.
    tape: u64,
    /// Whether no gradient has been added yet.
    fresh: bool,
    /// Whether the gradient is one that was given, not what backward passes added.
    given: bool,
    /// Whether the trained adapter has values that the host does not have.
    ahead: bool,
    /// The optimizer's moments.
    moments: Vec<Buffer>,
}

impl Engine {
    /// Copies the weights of `base` and its adapters to a device.
    ///
    /// # Errors
    /// If the device does not have enough memory.
    pub(super) fn new(device: &Arc<dyn Backend>, base: &Base, adapters: &Adapters) -> Result<Self> {
        let kind = base.kind();
        let layers = base
            .blocks
            .iter()
            .map(|block| Layer::new(device, kind, block, adapters))
            .collect::<Result<Arc<[Layer]>>>()?;
        let embedding = Table::new(device, base.embedding)?;
        let head = Head::new(device, kind, base, &embedding)?;
        let kernels = Kernels { device: &**device, kind };
        let mapped: Vec<_> = layers.iter().flat_map(Layer::mapped).collect();
        let matrices = Matrices::new(device, &kernels, adapters, &mapped)?;
        let scratch =
            mapped.iter().map(|mapped| mapped.group.scratch()).chain([head.scratch()]).max().unwrap_or(0);
        let engine = Self {
            kind,
            spec: base.spec.clone(),
            positions: base.positions.map(|table| Table::new(device, table)).transpose()?,
            embedding,
            final_norm: NormOn::new(device, base.final_norm)?,
            head,
            matrices,
            layout: adapters.layout(),
            trains: adapters.trains(),
            scratch: (scratch > 0).then(|| Buffer::new(device, scratch)).transpose()?,
            layers,
            angles: AngleTables::default(),
            keep: Arena::new(device),
            temp: Arena::new(device),
            tape: 0,
            fresh: true,
            given: false,
            ahead: false,
            moments: Vec::new(),
            device: device.clone(),
        };
        device.synchronise()?;
        Ok(engine)
    }

    /// Returns whether the adapters' shapes differ from those the engine was created for.
    pub(super) fn is_outdated(&self, adapters: &Adapters) -> bool {
        !adapters.has_layout(&self.layout)
    }

    /// Returns whether the trained adapter's values are newer here than on the host.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Copies changes in the adapters to the device.
    pub(super) fn refresh(&mut self, adapters: &Adapters) -> Result<()> {
        let kernels = Kernels { device: &*self.device, kind: self.kind };
        let replaced = self.matrices.refresh(&kernels, adapters)?;
        self.ahead &= !replaced;
        Ok(())
    }

    fn kernels(&self) -> Kernels<'_> {
        Kernels { device: &*self.device, kind: self.kind }
    }

    fn scratch(&self) -> Address {
        self.scratch.as_ref().map_or(Address::NONE, Buffer::at)
    }

    fn route(&self, pass: Pass, dropout: Option<Dropout>) -> Route {
        let policy = pass == Pass::Policy && self.trains;
        Route { policy, dropout: dropout.filter(|dropout| policy && dropout.probability > 0.0) }
    }

    fn layer(&self, i: usize) -> &Layer {
        &self.layers[i]
    }
}
