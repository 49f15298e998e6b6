//! What every loss provides.

use std::ops::Deref;

use super::metrics::Figure;
use super::scored::{Role, Scored, groups};
use crate::error::{Problems, Result};

/// What an objective is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The log-probs of the reference. Without them a run makes no reference pass.
    pub reference: bool,
    /// Completions behind the prompt of another record, which estimate a divergence (KTO).
    pub mismatched: bool,
    /// The log-prob of the prompt itself (ORPO).
    pub prompt: bool,
    /// All records of a micro-batch at once: the loss of a record depends on the others, so that the batch must not be
    /// cut.
    pub whole_batch: bool,
    /// Whether it knows what a label other than 1 means.
    pub soft_labels: bool,
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
    /// A completion to imitate: a text of its own, or the chosen one of a pair.
    Texts,
}

impl Records {
    /// What two losses that are added up take: a loss of texts takes the chosen completion of a pair, too.
    pub(super) fn with(self, other: Self) -> Self {
        if self == Self::Texts { other } else { self }
    }
}

impl Needs {
    /// Pairs and a reference: what most losses need.
    pub const PAIRS: Self = Self {
        reference: true,
        mismatched: false,
        prompt: false,
        whole_batch: false,
        soft_labels: true,
        records: Records::Pairs,
    };
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
    fn add(&self, batch: &Batch, weight: f64, onto: &mut Weighed) -> Result<()>;

    /// The implicit reward of a completion, for the metrics.
    fn reward(&self, completion: &Scored) -> Option<f64>;

    /// The log-prob of a completion that the loss compares, as TRL logs it: of the whole completion or, where the loss
    /// divides by the length, of a token.
    fn logp(&self, completion: &Scored) -> f64 {
        completion.logp
    }
}

/// The completions of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    completions: &'a [Scored],
    /// Scored tokens to imitate, for each record: what a mean over tokens is divided by.
    pub tokens_per_record: f64,
}

impl<'a> Batch<'a> {
    /// A batch of its own.
    pub(super) fn new(completions: &'a [Scored]) -> Self {
        let tokens: usize = completions.iter().filter(|c| is_imitated(c.role)).map(|c| c.tokens).sum();
        let records = groups(completions).filter(|group| !is_estimate(group)).count();
        Self { completions, tokens_per_record: tokens.max(1) as f64 / records.max(1) as f64 }
    }

    /// The same batch with the mean over tokens taken of more than it: of the whole step.
    pub(super) fn within(self, tokens_per_record: f64) -> Self {
        Self { tokens_per_record, ..self }
    }

    /// The groups in order, each with the index of its first completion.
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

/// Whether supervised losses imitate a completion in this role.
pub(super) fn is_imitated(role: Role) -> bool {
    matches!(role, Role::Chosen | Role::Text)
}

/// Whether a group only serves an estimate, and so has no loss.
pub(super) fn is_estimate(group: &[Scored]) -> bool {
    group.iter().all(|completion| completion.role == Role::Mismatched)
}

/// The loss of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weighed {
    /// The loss of each group, nats; 0 for one that only serves an estimate.
    pub losses: Vec<f64>,
    /// ∂(Σ losses) / ∂ log-prob of each completion of the batch, in order.
    pub d_logps: Vec<f64>,
    /// What a loss logs besides: the sum of a figure, and over how many records it is.
    pub(super) figures: Vec<(Figure, f64, u64)>,
}

impl Weighed {
    /// Zeros for a batch.
    pub(super) fn zeros(batch: &[Scored]) -> Self {
        Self {
            losses: vec![0.0; groups(batch).count()],
            d_logps: vec![0.0; batch.len()],
            figures: Vec::new(),
        }
    }

    /// Indices of the groups whose loss or gradient is not a finite number.
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

/// Refuses a weight that is negative or not a finite number.
pub(super) fn check_weight(key: &str, weight: f64, problems: &mut Problems) {
    problems.require(weight.is_finite() && weight >= 0.0, || {
        format!("objective.{key} is {weight}; it must be a finite number, 0 or above")
    });
}

/// Refuses what is not a finite number.
pub(super) fn check_finite(key: &str, value: f64, problems: &mut Problems) {
    problems.require(value.is_finite(), || format!("objective.{key} is {value}; it must be a finite number"));
}
