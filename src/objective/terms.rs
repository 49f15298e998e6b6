//! The interface that every loss implements.

use std::ops::Deref;

use super::metrics::Figure;
use super::scored::{Role, Scored, groups};
use crate::error::{Problems, Result};

/// The inputs an objective needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Whether the log-probs of the reference are needed. If not, a run makes no reference pass.
    pub reference: bool,
    /// Whether completions after the prompt of another record are needed to estimate a divergence (KTO).
    pub mismatched: bool,
    /// Whether the log-prob of the prompt itself is needed (ORPO).
    pub prompt: bool,
    /// Whether all records of a micro-batch are needed at once. The loss of a record then depends on the others, so
    /// that the batch must not be split.
    pub whole_batch: bool,
    /// Whether the tokens of a pair beyond its shared length are scored apart (`ld_alpha`).
    pub tails: bool,
    /// Whether the policy's log Σ p² is needed beside its log-probs (`use_weighting`).
    pub alignment: bool,
    /// Whether completions have a reward, read at their end by a scalar head, in place of a log-prob.
    pub rewards: bool,
    /// Whether labels other than 1 are supported.
    pub soft_labels: bool,
    /// The kind of records the loss takes.
    pub records: Records,
}

/// The kinds of records a loss can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A chosen and a rejected completion.
    Pairs,
    /// A chosen and a rejected completion, and a gold one to imitate.
    Triples,
    /// A list from the best completion to the worst.
    Ranked,
    /// One completion, desirable or not.
    Judged,
    /// A completion to imitate: a text of its own, or the chosen one of a pair.
    Texts,
    /// A prompt, which the policy completes itself.
    Prompts,
}

impl Records {
    /// Returns the records that two summed losses take: a loss of texts also accepts the chosen completion of a pair.
    pub(super) fn with(self, other: Self) -> Self {
        if self == Self::Texts { other } else { self }
    }
}

impl Needs {
    /// Pairs and a reference, which most losses need.
    pub const PAIRS: Self = Self {
        reference: true,
        mismatched: false,
        prompt: false,
        whole_batch: false,
        tails: false,
        alignment: false,
        rewards: false,
        soft_labels: true,
        records: Records::Pairs,
    };
}

/// A loss. Its parameters are its fields, with TRL's names.
pub(super) trait Terms {
    /// Returns the inputs the loss needs.
    fn needs(&self) -> Needs {
        Needs::PAIRS
    }

    /// Reports every invalid parameter.
    fn check(&self, problems: &mut Problems);

    /// Adds `weight` times the loss of each group and its gradient. The loss of the batch is the mean over the groups.
    ///
    /// # Errors
    /// Fails if a group does not have the completions that the loss compares.
    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()>;

    /// Returns the implicit reward of a completion, for the metrics.
    fn reward(&self, completion: &Scored) -> Option<f64>;

    /// Returns the log-prob of a completion that the loss compares, as TRL logs it: of the whole completion or, if the
    /// loss divides by the length, per token.
    fn logp(&self, completion: &Scored) -> f64 {
        completion.logp
    }
}

/// The completions of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    completions: &'a [Scored],
    /// The number of tokens to imitate per record, by which a mean over tokens is divided.
    pub tokens_per_record: f64,
}

impl<'a> Batch<'a> {
    /// Creates a batch that is not part of a larger step.
    pub(super) fn new(completions: &'a [Scored]) -> Self {
        let tokens: usize = completions.iter().filter(|c| is_imitated(c.role)).map(|c| c.tokens).sum();
        let records = groups(completions).filter(|group| !is_estimate(group)).count();
        Self { completions, tokens_per_record: tokens.max(1) as f64 / records.max(1) as f64 }
    }

    /// Returns the same batch, with means over tokens taken over the whole step.
    pub(super) fn within(self, tokens_per_record: f64) -> Self {
        Self { tokens_per_record, ..self }
    }

    /// Returns the groups in order, each with the index of its first completion.
    pub(super) fn groups(&self) -> impl Iterator<Item = (usize, &'a [Scored])> {
        groups(self.completions).scan(0, |first, group| {
            let at = *first;
            *first += group.len();
            Some((at, group))
        })
    }
}

impl Deref for Batch<'_> {
    type Target = [Scored];

    fn deref(&self) -> &[Scored] {
        self.completions
    }
}

/// Whether supervised losses imitate a completion with this role.
pub(super) fn is_imitated(role: Role) -> bool {
    matches!(role, Role::Chosen | Role::Text)
}

/// Whether a group is only used for an estimate and therefore has no loss.
pub(super) fn is_estimate(group: &[Scored]) -> bool {
    group.iter().all(|completion| completion.role == Role::Mismatched)
}

/// The loss of a batch and its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighed {
    /// The loss of each group, nats; 0 for a group that is only used for an estimate.
    pub losses: Vec<f64>,
    /// ∂(Σ losses) / ∂ log-prob of each completion of the batch, in order.
    pub d_logps: Vec<f64>,
    /// Additional figures that a loss logs: the sum of each and the number of records it covers.
    pub(super) figures: Vec<(Figure, f64, u64)>,
}

impl Weighed {
    /// Creates zeros for a batch.
    pub(super) fn zeros(batch: &[Scored]) -> Self {
        Self {
            losses: vec![0.0; groups(batch).count()],
            d_logps: vec![0.0; batch.len()],
            figures: Vec::new(),
        }
    }

    /// Returns the indices of the groups whose loss or gradient is not finite.
    pub fn broken(&self, batch: &[Scored]) -> Vec<usize> {
        let mut broken = Vec::new();
        for ((first, group), loss) in Batch::new(batch).groups().zip(&self.losses) {
            let slopes = &self.d_logps[first..first + group.len()];
            if !(loss.is_finite() && slopes.iter().all(|slope| slope.is_finite())) {
                broken.extend(group.first().map(|completion| completion.group));
            }
        }
        broken
    }
}

/// Rejects a β that is not above 0.
pub(super) fn check_beta(beta: f64, problems: &mut Problems) {
    problems.require(beta.is_finite() && beta > 0.0, || {
        format!("objective.beta is {beta}; it must be a finite number above 0, such as 0.1")
    });
}

/// Rejects a label smoothing outside [0, 0.5).
pub(super) fn check_smoothing(epsilon: f64, problems: &mut Problems) {
    problems.require((0.0..0.5).contains(&epsilon), || {
        format!(
            "objective.label_smoothing is {epsilon}; it must be in [0, 0.5): at 0.5 the labels carry no information"
        )
    });
}

/// Rejects a weight that is negative or not finite.
pub(super) fn check_weight(key: &str, weight: f64, problems: &mut Problems) {
    problems.require(weight.is_finite() && weight >= 0.0, || {
        format!("objective.{key} is {weight}; it must be a finite number, 0 or above")
    });
}

/// Rejects a value that is not finite.
pub(super) fn check_finite(key: &str, value: f64, problems: &mut Problems) {
    problems.require(value.is_finite(), || format!("objective.{key} is {value}; it must be a finite number"));
}
