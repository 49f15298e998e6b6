//! Which losses are of completions that the policy draws itself.

use super::on_policy::{Bnpo, Dapo, DrGrpo, GroupRelative, Grpo, Normalisation, Ppo, Rloo};
use super::{Loss, Objective};

/// A loss of completions that the policy draws itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnPolicy<'a> {
    /// GRPO and its relatives.
    Grouped(&'a GroupRelative, Normalisation),
    /// RLOO.
    LeaveOneOut(&'a Rloo),
    /// PPO.
    Proximal(&'a Ppo),
}

impl Loss {
    /// Returns the loss if it is one of completions that the policy draws.
    pub fn on_policy(&self) -> Option<OnPolicy<'_>> {
        match self {
            Self::Grpo(Grpo(loss)) => Some(OnPolicy::Grouped(loss, Grpo::NORMALISATION)),
            Self::Dapo(Dapo(loss)) => Some(OnPolicy::Grouped(loss, Dapo::NORMALISATION)),
            Self::Bnpo(Bnpo(loss)) => Some(OnPolicy::Grouped(loss, Bnpo::NORMALISATION)),
            Self::DrGrpo(DrGrpo(loss)) => Some(OnPolicy::Grouped(loss, DrGrpo::NORMALISATION)),
            Self::Rloo(loss) => Some(OnPolicy::LeaveOneOut(loss)),
            Self::Ppo(loss) => Some(OnPolicy::Proximal(loss)),
            // The others are losses of given completions.
            _ => None,
        }
    }
}

impl Objective {
    /// Returns the loss of completions that the policy draws, if it is one.
    pub fn on_policy(&self) -> Option<OnPolicy<'_>> {
        self.losses.iter().find_map(|(loss, _)| loss.on_policy())
    }
}
