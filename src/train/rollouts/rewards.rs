//! Rewards that own what they need but the base, which the run itself owns.

use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::objective::Objective;
use crate::reward::{LogRatio, Reward, RewardModel};
use crate::trainable::Policy;

/// A reward of a run.
pub enum RewardSource {
    /// One without a model.
    Plain(Box<dyn Reward>),
    /// The implicit reward of an adapter, with the loss it was trained with.
    Implicit(Policy, Objective, String),
    /// A reward model, with the padding token of its tokenizer.
    Model(Policy, Option<u32>, String),
}

impl RewardSource {
    /// Calls `work` with the reward on the run's base.
    ///
    /// # Errors
    /// The errors of `work`.
    pub fn with<T>(
        &mut self,
        decoder: &Decoder,
        work: impl FnOnce(&mut dyn Reward) -> Result<T>,
    ) -> Result<T> {
        match self {
            Self::Plain(reward) => work(reward.as_mut()),
            Self::Implicit(policy, objective, name) => {
                work(&mut LogRatio::new(decoder, &*policy, objective.clone(), name.as_str()))
            }
            Self::Model(policy, pad, name) => {
                work(&mut RewardModel::new(decoder, &*policy, *pad, name.as_str()))
            }
        }
    }
}
