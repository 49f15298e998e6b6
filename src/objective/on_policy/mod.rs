//! Losses of completions that the policy has drawn itself: of the log-prob of each token, and of an advantage in place of a
//! preference. The functions are pure and in f64.
//!
//! | file | loss | source |
//! |---|---|---|
//! | `group_relative.rs` | `grpo`, `dapo`, `bnpo`, `dr_grpo` | TRL 1.16, `GRPOTrainer._compute_loss` |
//! | `leave_one_out.rs` | `rloo` | TRL 1.16, `RLOOTrainer` |
//! | `proximal.rs` | `ppo` | TRL, `experimental.ppo.PPOTrainer` (up to 1.15), `AdaptiveKLController` (up to 0.11) |
//! | `advantages.rs` | what a group's rewards are worth against each other | the same |

pub mod advantages;
mod group_relative;
mod leave_one_out;
mod proximal;

pub use group_relative::{
    Bnpo, Dapo, DrGrpo, GroupRelative, Grpo, ImportanceLevel, Normalisation, ScaleRewards,
};
pub use leave_one_out::Rloo;
pub use proximal::{AdaptiveKl, Drawn, KlEstimator, Ppo, ProximalInputs, ProximalWeighed};

use super::terms::{Needs, Records};

/// A completion with what its loss is computed from. All lists have one number per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// log π_θ, nats.
    pub logps: Vec<f64>,
    /// The same by the policy that drew the completion.
    pub old_logps: Vec<f64>,
    /// The same by the reference; `None` if the loss has no divergence.
    pub ref_logps: Option<Vec<f64>>,
    /// How much better than expected it is.
    pub advantage: f64,
    /// Whether it counts: a truncated completion may be masked.
    pub counts: bool,
}

/// Numbers of a whole step, over which its losses are averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSize {
    /// Completions of the step, masked ones included.
    pub completions: usize,
    /// Micro-batches of the step.
    pub micro_batches: usize,
    /// Tokens of its completions that count.
    pub tokens: usize,
    /// The longest that a completion may be.
    pub max_completion_length: usize,
}

/// The share of a step's loss that a micro-batch has, and its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokensWeighed {
    /// The loss, nats.
    pub loss: f64,
    /// ∂loss / ∂ log-prob of each token, for each completion.
    pub d_logps: Vec<Vec<f64>>,
    /// Σ of the divergence estimate over the tokens that count, nats.
    pub kl: f64,
    /// Tokens (or completions, for a ratio of the whole sequence) whose ratio is clipped.
    pub clipped: usize,
    /// Those that could be.
    pub clippable: usize,
}

/// What a loss of rollouts needs: prompts, and the reference if there is a divergence.
fn needs(reference: bool) -> Needs {
    Needs { reference, records: Records::Prompts, soft_labels: false, ..Needs::PAIRS }
}

/// −min(c₁·A, c₂·A) of the ratio w: c₁ = min(w, `most`), c₂ = w within [1 − `low`, 1 + `high`]. Returns the loss, its slope
/// in w (torch's, which halves the slopes of equal terms), and whether the ratio is clipped.
fn clipped(w: f64, advantage: f64, (low, high): (f64, f64), most: Option<f64>) -> (f64, f64, bool) {
    let (least, greatest) = (1.0 - low, 1.0 + high);
    let of_first = if most.is_some_and(|most| w > most) { 0.0 } else { 1.0 };
    let of_second = if (least..=greatest).contains(&w) { 1.0 } else { 0.0 };
    let first = most.map_or(w, |most| w.min(most)) * advantage;
    let second = w.clamp(least, greatest) * advantage;
    let slope = match first.total_cmp(&second) {
        std::cmp::Ordering::Less => of_first,
        std::cmp::Ordering::Greater => of_second,
        std::cmp::Ordering::Equal => 0.5 * (of_first + of_second),
    };
    let is_clipped = (w < least && advantage < 0.0) || (w > greatest && advantage > 0.0);
    (-first.min(second), -advantage * slope, is_clipped)
}

#[cfg(test)]
mod testing;
