//! What a rule is: its settings, and one step of it.

use serde::{Deserialize, Serialize};

use crate::model::engine::Update;
use crate::trainable::store::Parts;

/// Elements updated by one task.
pub(super) const CHUNK: usize = 1 << 14;

/// The update rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// `torch.optim.AdamW`; also under transformers' names.
    #[default]
    #[serde(alias = "adamw_torch", alias = "adamw_torch_fused")]
    AdamW,
    /// `torch.optim.RMSprop`, which the DPO paper used.
    RmsProp,
    /// `torch.optim.SGD` without momentum.
    Sgd,
}

/// What an optimizer needs to know, but for the learning rate, which comes with every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// AdamW's term in the denominator.
    pub epsilon: f64,
    /// Decoupled in AdamW, added to the gradient (L2) in the others, as in torch.
    pub weight_decay: f64,
}

/// One step's elementwise update.
pub(super) trait Rule: Send {
    /// torch's names of what it remembers of every number.
    fn moments(&self) -> &'static [&'static str];
    /// `step` is 1-based; the moments are those that the rule names, in order.
    fn update(&self, step: u64, parts: Parts, lr: f64);
    /// The same step as a device's kernel.
    fn on_device(&self, step: u64, lr: f64) -> Update;
}
