//! The interface of an update rule, and its settings.

use serde::{Deserialize, Serialize};

use crate::model::engine::Update;
use crate::trainable::store::Parts;

/// Elements updated by one task.
pub(super) const CHUNK: usize = 1 << 14;

/// The update rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// `torch.optim.AdamW`; also accepted under transformers' names.
    #[default]
    #[serde(alias = "adamw_torch", alias = "adamw_torch_fused")]
    AdamW,
    /// `torch.optim.RMSprop`, which the DPO paper used.
    RmsProp,
    /// `torch.optim.SGD` without momentum.
    Sgd,
}

/// The optimizer's settings, except for the learning rate, which is passed with every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// AdamW's decay rate of the first moment.
    pub beta1: f64,
    /// AdamW's decay rate of the second moment.
    pub beta2: f64,
    /// AdamW's term added to the denominator.
    pub epsilon: f64,
    /// Weight decay: decoupled in AdamW, added to the gradient (L2) in the others, as in torch.
    pub weight_decay: f64,
}

/// An elementwise update rule.
pub(super) trait Rule: Send {
    /// torch's names of what it remembers of every number.
    fn moments(&self) -> &'static [&'static str];
    /// Makes one update. `step` is 1-based; `parts` holds the rule's moments, in the order of [`Rule::moments`].
    fn update(&self, step: u64, parts: Parts, lr: f64);
    /// Returns the same step as a device kernel.
    fn on_device(&self, step: u64, lr: f64) -> Update;
}
