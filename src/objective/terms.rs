//! What every loss provides, and what the losses of pairs share.

use super::scored::{Pair, Scored, groups, pair};
use crate::error::{Problems, Result};

/// What an objective is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The log-probs of the reference. Without them a run makes no reference pass.
    pub reference: bool,
    /// Completions behind the prompt of another record, which estimate a divergence (KTO).
    pub mismatched: bool,
    /// Which records it takes.
    pub records: Records,
}

/// Kinds of record that a loss takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A chosen and a rejected completion.
    Pairs,
    /// A list from the best completion to the worst.
    Ranked,
    /// One completion, desirable or not.
    Judged,
    /// One completion to imitate.
    Texts,
}

impl Needs {
    /// Pairs and a reference: what most losses need.
    pub const PAIRS: Self = Self { reference: true, mismatched: false, records: Records::Pairs };
}

/// A loss. Its parameters are its fields, named as in TRL.
pub(super) trait Terms {
    /// What it is computed from.
    fn needs(&self) -> Needs {
        Needs::PAIRS
    }

    /// Names every invalid parameter.
    fn check(&self, problems: &mut Problems);

    /// Adds `weight` times the loss of each group and its gradient. The mean over the groups is the loss of the batch.
    ///
    /// # Errors
    /// If a group does not have the completions that the loss compares.
    fn add(&self, batch: &[Scored], weight: f64, onto: &mut Weighed) -> Result<()>;

    /// The implicit reward of a completion, for the metrics.
    fn reward(&self, completion: &Scored) -> Option<f64>;
}

/// The loss of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighed {
    /// The loss of each group, nats.
    pub losses: Vec<f64>,
    /// ∂(Σ losses) / ∂ log-prob of each completion of the batch, in order.
    pub d_logps: Vec<f64>,
}

impl Weighed {
    /// Zeros for a batch.
    pub(super) fn zeros(batch: &[Scored]) -> Self {
        Self { losses: vec![0.0; groups(batch).count()], d_logps: vec![0.0; batch.len()] }
    }

    /// Indices of the groups whose loss or gradient is not a finite number.
    pub fn broken(&self, batch: &[Scored]) -> Vec<usize> {
        let mut first = 0;
        let mut broken = Vec::new();
        for (group, loss) in groups(batch).zip(&self.losses) {
            let slopes = &self.d_logps[first..first + group.len()];
            if !(loss.is_finite() && slopes.iter().all(|slope| slope.is_finite())) {
                broken.extend(group.first().map(|completion| completion.group));
            }
            first += group.len();
        }
        broken
    }
}

/// The loss of one pair and its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PairLoss {
    /// Nats.
    pub loss: f64,
    /// ∂loss / ∂ log π_θ(chosen).
    pub d_chosen: f64,
    /// ∂loss / ∂ log π_θ(rejected).
    pub d_rejected: f64,
}

/// Adds a loss that is a function of one pair at a time.
pub(super) fn add_pairs(
    batch: &[Scored],
    weight: f64,
    onto: &mut Weighed,
    loss: impl Fn(&Pair) -> PairLoss,
) -> Result<()> {
    for (i, group) in groups(batch).enumerate() {
        let found = loss(&pair(group)?);
        onto.losses[i] += weight * found.loss;
        // Every group before is a pair, too.
        onto.d_logps[2 * i] += weight * found.d_chosen;
        onto.d_logps[2 * i + 1] += weight * found.d_rejected;
    }
    Ok(())
}

/// Refuses a β that is not above 0.
pub(super) fn check_beta(beta: f64, problems: &mut Problems) {
    problems.require(beta.is_finite() && beta > 0.0, || {
        format!("objective.beta is {beta}; it must be a finite number above 0, such as 0.1")
    });
}

/// Refuses a label smoothing outside [0, 0.5).
pub(super) fn check_smoothing(epsilon: f64, problems: &mut Problems) {
    problems.require((0.0..0.5).contains(&epsilon), || {
        format!(
            "objective.label_smoothing is {epsilon}; it must be in [0, 0.5): at 0.5 the labels say nothing"
        )
    });
}
