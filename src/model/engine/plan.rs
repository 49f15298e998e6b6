//! Predicts the memory and work of a step, by running the same code on a device that only counts.

use std::sync::Arc;

use super::Engine;
use super::base::Base;
use super::batch::Input;
use super::lora::Adapters;
use crate::device::profile::Entry;
use crate::device::{Backend, measure};
use crate::error::Result;
use crate::model::pass::Pass;
use crate::ops::tree_attention::TreeSpans;
use crate::trainable::Policy;

/// The shape of a step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Positions of all rows.
    pub positions: Vec<u32>,
    /// The spans that define which rows see which.
    pub trees: Vec<TreeSpans>,
    /// The scored rows, one for each target.
    pub scored: Vec<u32>,
    /// Whether only each block's input is kept.
    pub recompute: bool,
    /// Number of moments of the optimizer.
    pub moments: usize,
}

/// Memory in bytes for each part of a run on a device, and the work of a step.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Frozen weights, adapters, and scratch memory for dequantisation.
    pub weights: usize,
    /// What a forward pass keeps for its backward pass.
    pub activations: usize,
    /// Temporary memory of a block or the head.
    pub scratch: usize,
    /// The optimizer's moments.
    pub optimizer: usize,
    /// Work of a step by kernel: reference, policy, backward, optimizer.
    pub work: Vec<Entry>,
}

/// Memory used by the driver and the libraries: context, workspace, kernels.
const LIBRARIES: usize = 750 << 20;

impl Plan {
    /// Total bytes.
    pub fn total(&self) -> usize {
        self.weights + self.activations + self.scratch + self.optimizer + LIBRARIES
    }

    /// Predicted seconds per step.
    pub fn seconds(&self) -> f64 {
        self.work.iter().map(|entry| entry.seconds).sum()
    }
}

/// Plans a step of `base` with these adapters, and a reference pass.
///
/// # Errors
/// If the tensors of `base` cannot be read.
pub(in crate::model) fn plan(
    base: &Base,
    policy: &Policy,
    step: &Step,
    rates: measure::Rates,
) -> Result<Plan> {
    let counter = Arc::new(measure::Measure::new(rates));
    let device: Arc<dyn Backend> = counter.clone();
    let mut engine = Engine::new(&device, base, &Adapters::new(policy)?)?;
    let weights = counter.allocated();
    counter.profile(true);
    let tokens = vec![0; step.positions.len()];
    let input = Input { tokens: &tokens, positions: &step.positions, trees: &step.trees, unread: 1 };
    let targets = vec![0; step.scored.len()];
    engine.logps(&input, &step.scored, &targets, Pass::Reference)?;
    let mut optimizer = 0;
    if engine.trains {
        let (_, tape) = engine.forward(&input, (&step.scored, &targets), (None, step.recompute))?;
        engine.backward(tape, &vec![0.0; step.scored.len()])?;
        engine.gradient_norm()?;
        let count = engine.trained_values()?.len();
        let scalars = Vec::new();
        engine.update(&super::Update { kernel: "adamw", moments: step.moments, scalars }, 1.0)?;
        optimizer = 4 * count * step.moments;
    }
    let (activations, scratch) = (engine.keep.peak(), engine.temp.peak());
    Ok(Plan { weights, activations, scratch, optimizer, work: counter.times()? })
}
