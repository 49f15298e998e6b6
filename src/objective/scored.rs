//! The input of an objective: completions with their log-probs and their role in the comparison.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The role of a completion in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The preferred answer of a pair.
    Chosen,
    /// The other answer of a pair.
    Rejected,
    /// An answer at this rank of a list; 0 is the best.
    Rank(usize),
    /// A third answer of a pair, which is imitated (TPO; TRL's column `reference`).
    Gold,
    /// A single answer that is desirable (KTO).
    Desirable,
    /// A single answer that is undesirable (KTO).
    Undesirable,
    /// A single answer to imitate (SFT).
    Text,
    /// An answer that follows the prompt of another record. It only estimates a divergence and has no gradient.
    Mismatched,
    /// The tokens of completion 0 or 1 of a pair beyond the length of the shorter one (`ld_alpha`). The entry of that
    /// completion itself then has only the others. It comes after the completions of its record.
    Tail(usize),
    /// The prompt itself, after its first token. It comes after the completions of its record.
    Prompt,
}

/// A completion of a batch after the model has scored it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// The record of the batch that the completion belongs to. The completions of a group are adjacent.
    pub group: usize,
    /// The role in the group.
    pub role: Role,
    /// y in [0, 1]: the degree to which the chosen completion of the group is preferred; 1 for every other role.
    pub label: f64,
    /// By how much the reward of the chosen completion of the group should at least exceed that of the rejected one; 0 if
    /// nothing is said.
    pub margin: f64,
    /// log π_θ(completion | prompt), summed over its scored tokens, nats; of a reward model, its reward.
    pub logp: f64,
    /// The same log-prob under π_ref; `None` if the objective needs no reference.
    pub ref_logp: Option<f64>,
    /// The number of scored tokens.
    pub tokens: usize,
}

impl Scored {
    /// Returns log π_θ − log π_ref, nats; `None` without a reference.
    pub fn log_ratio(&self) -> Option<f64> {
        self.ref_logp.map(|reference| self.logp - reference)
    }

    /// Returns log π_θ per token, nats.
    pub fn mean_logp(&self) -> f64 {
        self.logp / self.tokens.max(1) as f64
    }

    /// Whether all log-probs are finite.
    pub fn is_finite(&self) -> bool {
        self.logp.is_finite() && self.ref_logp.is_none_or(f64::is_finite)
    }
}

/// The two completions of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub chosen: &'a Scored,
    pub rejected: &'a Scored,
}

impl Pair<'_> {
    /// Returns the degree to which the chosen completion is preferred.
    pub(super) fn label(&self) -> f64 {
        self.chosen.label
    }

    /// Returns log π_θ − log π_ref of both completions, nats.
    pub(super) fn log_ratios(&self) -> (f64, f64) {
        // `Objective::weigh` has already checked that there is a reference where one is needed.
        let ratio = |scored: &Scored| scored.log_ratio().unwrap_or(f64::NAN);
        (ratio(self.chosen), ratio(self.rejected))
    }
}

/// Returns the groups of a batch, in order.
pub(super) fn groups(batch: &[Scored]) -> impl Iterator<Item = &[Scored]> {
    batch.chunk_by(|a, b| a.group == b.group)
}

/// Returns the group as a pair. Additional scored entries (the prompt, or a gold answer) may follow the pair.
///
/// # Errors
/// Fails if the group has other completions.
pub(super) fn pair(group: &[Scored]) -> Result<Pair<'_>> {
    match group {
        [
            chosen @ Scored { role: Role::Chosen, .. },
            rejected @ Scored { role: Role::Rejected, .. },
            rest @ ..,
        ] if rest.iter().all(|scored| matches!(scored.role, Role::Prompt | Role::Gold)) => {
            Ok(Pair { chosen, rejected })
        }
        _ => Err(Error::Train("the objective compares pairs, and a record is not a pair".into())),
    }
}
