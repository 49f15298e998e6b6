//! Scored completions → loss, gradient, rewards and metrics. Pure functions; they never see a model.
//!
//! A batch is a list of [`Scored`] completions. [`Objective::weigh`] gives the loss of each group and its gradient with
//! respect to each log-prob. A new loss is one file that implements `Terms` and one line in `losses!`.

mod config;
mod ipo;
mod metrics;
mod numbers;
mod scored;
mod sigmoid;
mod terms;
#[cfg(test)]
mod testing;

use serde::{Deserialize, Serialize};

pub use config::ObjectiveConfig;
pub use ipo::Ipo;
pub use metrics::Metrics;
pub use scored::{Role, Scored};
pub use sigmoid::Sigmoid;
pub use terms::{Needs, Records, Weighed};

use crate::error::{Error, Result};
use scored::groups;
use terms::Terms;

/// Declares the losses. The name in a configuration (`loss_type`) is the variant's in snake case.
macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A loss with its parameters.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "loss_type", rename_all = "snake_case")]
        pub enum Loss {
            $($(#[$doc])* $name($name),)*
        }

        $(impl From<$name> for Loss {
            fn from(loss: $name) -> Self {
                Self::$name(loss)
            }
        })*

        impl Loss {
            /// Every loss with its default parameters.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$name($name::default())),*]
            }

            fn terms(&self) -> &dyn Terms {
                match self {
                    $(Self::$name(loss) => loss,)*
                }
            }
        }
    };
}

losses! {
    /// Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290).
    Sigmoid,
    /// Identity preference optimization (Azar et al. 2023, arXiv 2310.12036).
    Ipo,
}

impl Loss {
    /// What it is computed from.
    pub fn needs(&self) -> Needs {
        self.terms().needs()
    }
}

/// One loss, or a weighted sum of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    losses: Vec<(Loss, f64)>,
}

impl Default for Objective {
    fn default() -> Self {
        Self::new(Sigmoid::default())
    }
}

impl Objective {
    /// One loss.
    pub fn new(loss: impl Into<Loss>) -> Self {
        Self { losses: vec![(loss.into(), 1.0)] }
    }

    /// The losses and their weights.
    pub fn losses(&self) -> &[(Loss, f64)] {
        &self.losses
    }

    /// What all its losses together are computed from.
    pub fn needs(&self) -> Needs {
        let all = || self.losses.iter().map(|(loss, _)| loss.needs());
        Needs {
            reference: all().any(|needs| needs.reference),
            mismatched: all().any(|needs| needs.mismatched),
            records: all().next().map_or(Records::Pairs, |needs| needs.records),
        }
    }

    /// The loss of each group of the batch, and its gradient. A step divides both by the number of groups.
    ///
    /// # Errors
    /// If a group does not have the completions that the losses compare, or lacks its reference.
    pub fn weigh(&self, batch: &[Scored]) -> Result<Weighed> {
        if self.needs().reference && batch.iter().any(|completion| completion.ref_logp.is_none()) {
            return Err(Error::Train("the objective needs log-probs of the reference".into()));
        }
        let mut found = Weighed::zeros(batch);
        for (loss, weight) in &self.losses {
            loss.terms().add(batch, *weight, &mut found)?;
        }
        Ok(found)
    }

    /// The implicit reward of a completion: that of the first loss that has one.
    pub fn reward(&self, completion: &Scored) -> Option<f64> {
        self.losses.iter().find_map(|(loss, _)| loss.terms().reward(completion))
    }

    /// Adds the groups of a batch to `metrics`.
    pub fn measure(&self, batch: &[Scored], found: &Weighed, metrics: &mut Metrics) {
        for (group, loss) in groups(batch).zip(&found.losses) {
            metrics.add(group, *loss, |completion| self.reward(completion));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::logps;
    use super::*;

    #[test]
    fn a_weighted_sum_is_the_sum_of_its_losses() {
        let batch = logps([-41.5, -37.25, -44.0, -36.0]);
        let alone = |loss: Loss| Objective::new(loss).weigh(&batch).unwrap();
        let (sigmoid, ipo) = (alone(Sigmoid::default().into()), alone(Ipo::default().into()));
        let both = Objective { losses: vec![(Sigmoid::default().into(), 0.5), (Ipo::default().into(), 2.0)] };
        let found = both.weigh(&batch).unwrap();
        assert_eq!(found.losses[0], 0.5 * sigmoid.losses[0] + 2.0 * ipo.losses[0]);
        assert_eq!(found.d_logps[1], 0.5 * sigmoid.d_logps[1] + 2.0 * ipo.d_logps[1]);
    }

    #[test]
    fn other_groups_and_missing_references_are_refused() {
        let batch = logps([-1.0, -2.0, -1.0, -2.0]);
        assert!(Objective::default().weigh(&batch[..1]).unwrap_err().to_string().contains("no pair"));
        let without = batch.map(|completion| Scored { ref_logp: None, ..completion });
        assert!(Objective::default().weigh(&without).unwrap_err().to_string().contains("reference"));
    }

    #[test]
    fn groups_with_broken_numbers_are_named() {
        let mut batch = logps([-1.0, -2.0, -1.0, -2.0]).to_vec();
        batch.extend(logps([f64::NAN, -2.0, -1.0, -2.0]).map(|scored| Scored { group: 7, ..scored }));
        let found = Objective::default().weigh(&batch).unwrap();
        assert_eq!(found.broken(&batch), [7]);
    }
}
