//! The interface of an update rule, and its settings.

use serde::{Deserialize, Serialize};

use super::rates::Rates;
use crate::error::{Error, Result};
use crate::model::engine::Update;
use crate::trainable::Store;
use crate::trainable::store::{Moment, Parts};

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
    /// AdamW with moments of 8 bits (bitsandbytes).
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit")]
    AdamW8Bit,
    /// Lion (Chen et al. 2023, arXiv 2302.06675).
    #[serde(alias = "lion_32bit")]
    Lion,
    /// Muon for matrices, AdamW for everything else.
    Muon,
    /// Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682).
    #[serde(rename = "schedule_free_adamw")]
    ScheduleFreeAdamW,
}

impl OptimizerKind {
    /// Returns the number of moments that a device keeps for each parameter, or `None` if devices do not have the rule.
    pub fn device_moments(self) -> Option<usize> {
        match self {
            Self::AdamW => Some(2),
            Self::RmsProp => Some(1),
            Self::Sgd => Some(0),
            Self::AdamW8Bit | Self::Lion | Self::Muon | Self::ScheduleFreeAdamW => None,
        }
    }

    /// Returns [`OptimizerKind::device_moments`] of a rule that devices have.
    ///
    /// # Errors
    /// [`Error::Config`] that names the key if they do not have it.
    pub fn moments_on_device(self) -> Result<usize> {
        self.device_moments().ok_or_else(|| {
            let name = serde_yaml::to_string(&self).unwrap_or_default();
            Error::Config(format!(
                "train.optim is {}, which is computed on the processor only; set model.device: cpu, or take adamw, rmsprop \
                 or sgd",
                name.trim()
            ))
        })
    }

    /// The bytes of state that it keeps for each parameter.
    pub fn state_bytes(self) -> usize {
        match self {
            Self::Sgd => 0,
            Self::RmsProp | Self::Lion | Self::Muon => 4,
            // Two codes, and two f32 for each block of 256.
            Self::AdamW8Bit => 3,
            Self::AdamW => 8,
            Self::ScheduleFreeAdamW => 12,
        }
    }
}

/// The optimizer's settings, except for the learning rate, which is passed with every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// Decay rate of the first moment: of AdamW and its variants, and of Lion's update.
    pub beta1: f64,
    /// Decay rate of the second moment; of Lion's only one.
    pub beta2: f64,
    /// AdamW's term added to the denominator.
    pub epsilon: f64,
    /// Weight decay: added to the gradient (L2) in RMSprop and SGD, decoupled in the others, as in torch.
    pub weight_decay: f64,
    /// Steps of the schedule-free rule's own warm-up.
    pub warmup_steps: u64,
    /// Factor of the learning rate of B and of vectors (LoRA+); 1 for none.
    pub loraplus_lr_ratio: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            warmup_steps: 0,
            loraplus_lr_ratio: 1.0,
        }
    }
}

/// An update rule.
pub(super) trait Rule: Send {
    /// The names of its state, torch's where torch has them.
    fn moments(&self) -> &'static [&'static str];

    /// Returns the state before the first step. By default each moment is a zero for every parameter.
    fn start(&self, store: &Store) -> Vec<Moment> {
        self.moments().iter().map(|name| Moment::zeros(name, store.values().len())).collect()
    }

    /// Makes one update. `step` is 1-based; `parts` holds the rule's moments, in the order of [`Rule::moments`].
    fn update(&self, step: u64, parts: Parts, rates: Rates);

    /// Whether the gradient is computed at other values than those that are evaluated and saved.
    fn averages(&self) -> bool {
        false
    }

    /// Sets the values at which the gradient is computed; used only if [`Rule::averages`].
    fn to_gradient_point(&self, _parts: Parts) {}

    /// Sets the values that are evaluated and saved; used only if [`Rule::averages`].
    fn to_average(&self, _parts: Parts) {}

    /// Returns the same step as a device kernel, if devices have the rule.
    fn on_device(&self, _step: u64, _lr: f64) -> Option<Update> {
        None
    }
}
