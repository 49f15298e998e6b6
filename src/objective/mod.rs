//! Turns scored completions into loss, gradient, rewards and metrics. The functions are pure and never access a model.
//!
//! A batch is a list of [`Scored`] completions. [`Objective::weigh`] returns the loss of each group and its gradient
//! with respect to each log-prob. To add a loss, add one file that implements `Terms` and one line in `losses!`.
//!
//! # Choosing a loss
//!
//! Names, keys and defaults are those of TRL 1.16. The file of each loss documents where it differs and why. Every loss
//! has `beta` except `sft`, `unlikelihood` and `reward`. Numbers in the paper column are arXiv numbers. Several losses are summed with
//! `loss_weights`.
//!
//! | `loss_type` | paper | keys besides `beta` | when |
//! |---|---|---|---|
//! | `sigmoid` | DPO 2305.18290 | `label_smoothing`, f | first choice for pairs |
//! | `hinge` | SLiC 2305.10425, RSO 2309.06657 | f | margins beyond 1/β are good enough |
//! | `ipo` | 2310.12036 | f | few pairs with noise-free labels, where DPO overfits |
//! | `exo_pair` | 2402.00856 | `label_smoothing` (required), f | mode-seeking instead of mode-covering |
//! | `nca_pair` | 2402.05369 | | the chosen answer's likelihood must not fall |
//! | `robust` | 2403.00409 | `label_smoothing`, f | a known share of labels is wrong |
//! | `bco_pair` | 2404.04656 | | each answer is judged independently |
//! | `sppo_hard` | 2405.00675 | | self-play rounds |
//! | `aot`, `aot_unpaired` | 2406.05882 | `label_smoothing` | the distribution of rewards matters; large batches |
//! | `apo_zero`, `apo_down` | 2408.06266 | | chosen answers better (zero) or worse (down) than the model's own |
//! | `discopop` | 2406.08414 | `discopop_tau`, f | a discovered blend; strong at small margins |
//! | `sigmoid_norm` | Tülu 3 2411.15124 | f | answers of very different lengths; β about 5 |
//! | `cpo` | 2401.08417 | `cpo_alpha`, `label_smoothing`, `alpha` | no reference; also imitates the chosen answer |
//! | `simpo` | 2405.14734 | `simpo_gamma`, `cpo_alpha` (paper: 0), `label_smoothing`, `alpha` | no reference; β ≥ 2 |
//! | `alphapo` | 2501.03884 | `alpha`, `simpo_gamma`, `cpo_alpha`, `label_smoothing` | SimPO, tunable reward |
//! | `orpo` | 2403.07691 | | no reference; from a base model, instead of SFT and DPO |
//! | `tpo`, `tpo_hinge`, `tpo_ipo` | TPO 2405.16681 | `tpo_alpha`, `label_smoothing` (`tpo`) | no reference; pairs with a gold answer to imitate |
//! | `tpo_l` | TPO 2405.16681 | `tpo_l_gamma`, `tpo_alpha`, `label_smoothing` | the same by length, with a target margin |
//! | `kto` | 2402.01306 | `desirable_weight`, `undesirable_weight` | thumbs up or down instead of pairs |
//! | `apo_zero_unpaired` | 2408.06266 | `desirable_weight`, `undesirable_weight` | like `kto`, without its divergence |
//! | `plackett_luce` | DPO 2305.18290, A.3 | | ranked lists |
//! | `unlikelihood` | DPO 2305.18290, baseline | `unlikelihood_alpha` (no `beta`) | to compare with |
//! | `reward` | 2203.02155 | `center_rewards_coefficient` (no `beta`) | a reward model: a scalar head instead of log-probs |
//! | `grpo`, `dapo`, `bnpo`, `dr_grpo` | 2402.03300 | see `on_policy` | completions that the policy draws, with a reward |
//! | `rloo` | 2402.14740 | see `on_policy` | the same |
//! | `ppo` | 1707.06347 | see `on_policy` | the same, with a value head |
//! | `sft` | | none at all | texts; or `[sigmoid, sft]` with a loss of pairs (its weight: TRL's former `rpo_alpha`) |
//!
//! `ld_alpha`, `use_weighting` and `beta_end` change any loss of pairs with a reference (`modifiers.rs`).
//!
//! Here f means `f_divergence_type` and `f_alpha_divergence_coef` (2309.16240).
//!
//! | `loss_type` | records | reference | soft labels | whole batch (no `max_tokens_per_batch`) |
//! |---|---|---|---|---|
//! | `sigmoid` to `sppo_hard`, `apo_…`, `discopop`, `sigmoid_norm` | pairs | yes | y·L + (1−y)·L swapped | no |
//! | `aot`, `aot_unpaired` | pairs | yes | rejected | yes |
//! | `cpo`, `simpo`, `alphapo` | pairs | no | with `cpo_alpha: 0` | unless `cpo_alpha: 0` |
//! | `orpo` | pairs | no | rejected | yes |
//! | `tpo`, `tpo_hinge`, `tpo_ipo`, `tpo_l` | pairs with a gold answer (`reference`); pairs with `tpo_alpha: 0` | no | y·L(δ) + (1−y)·L(−δ) | unless `tpo_alpha: 0` |
//! | `unlikelihood` | pairs | no | y·L + (1−y)·L swapped | no |
//! | `kto` | judged answers | yes, also of mismatched answers | | yes, of 2 or more |
//! | `apo_zero_unpaired` | judged answers | yes | | no |
//! | `plackett_luce` | ranked lists | yes | | no |
//! | `reward` | pairs, with `margin` if there is one | no | y·L + (1−y)·L(−Δ) | no |
//! | `sft` | texts, or pairs | no | rejected | when combined with another loss |

mod alphapo;
mod aot;
mod aot_unpaired;
mod apo_down;
mod apo_zero;
mod apo_zero_unpaired;
mod bco_pair;
mod config;
mod cpo;
mod discopop;
mod divergence;
mod drawn;
mod exo_pair;
mod hinge;
mod ipo;
mod judged;
mod kto;
mod metrics;
mod modified;
mod modifiers;
mod nca_pair;
mod nll;
mod numbers;
pub mod on_policy;
mod orpo;
mod pairs;
mod plackett_luce;
mod reward;
mod robust;
mod scored;
mod sft;
mod sigmoid;
mod sigmoid_norm;
mod simpo;
mod sppo_hard;
mod terms;
#[cfg(test)]
mod testing;
mod tpo;
mod tpo_hinge;
mod tpo_ipo;
mod tpo_l;
mod transport;
mod triples;
mod unlikelihood;

use serde::{Deserialize, Serialize};

pub use alphapo::Alphapo;
pub use aot::Aot;
pub use aot_unpaired::AotUnpaired;
pub use apo_down::ApoDown;
pub use apo_zero::ApoZero;
pub use apo_zero_unpaired::ApoZeroUnpaired;
pub use bco_pair::BcoPair;
pub use config::ObjectiveConfig;
pub use cpo::Cpo;
pub use discopop::Discopop;
pub use divergence::FDivergenceType;
pub use drawn::OnPolicy;
pub use exo_pair::ExoPair;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use kto::Kto;
pub use metrics::{Figure, Measure, Metrics};
pub use modifiers::{BetaSchedule, Modifiers};
pub use nca_pair::NcaPair;
pub use on_policy::{Bnpo, Dapo, DrGrpo, Grpo, Ppo, Rloo};
pub use orpo::Orpo;
pub use plackett_luce::PlackettLuce;
pub use reward::Reward;
pub use robust::Robust;
pub use scored::{Role, Scored};
pub use sft::Sft;
pub use sigmoid::Sigmoid;
pub use sigmoid_norm::SigmoidNorm;
pub use simpo::Simpo;
pub use sppo_hard::SppoHard;
pub use terms::{Needs, Records, Weighed};
pub use tpo::Tpo;
pub use tpo_hinge::TpoHinge;
pub use tpo_ipo::TpoIpo;
pub use tpo_l::TpoL;
pub use unlikelihood::Unlikelihood;

use crate::error::{Error, Problems, Result};
use scored::groups;
use terms::{Batch, Terms, is_estimate};

/// Declares the losses. The name in a configuration (`loss_type`) is the variant's name in snake case.
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
            /// Returns every loss with its default parameters.
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
    /// Hinge loss (SLiC, Zhao et al. 2023, arXiv 2305.10425; RSO, Liu et al. 2023, arXiv 2309.06657).
    Hinge,
    /// Identity preference optimization (Azar et al. 2023, arXiv 2310.12036).
    Ipo,
    /// Efficient exact optimization (Ji et al. 2024, arXiv 2402.00856).
    ExoPair,
    /// Noise contrastive alignment (Chen et al. 2024, arXiv 2402.05369).
    NcaPair,
    /// Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409).
    Robust,
    /// Binary classifier optimization (Jung et al. 2024, arXiv 2404.04656).
    BcoPair,
    /// Self-play preference optimization with hard labels (Wu et al. 2024, arXiv 2405.00675).
    SppoHard,
    /// Alignment by optimal transport, paired (Melnyk et al. 2024, arXiv 2406.05882).
    Aot,
    /// Alignment by optimal transport, unpaired (same paper).
    AotUnpaired,
    /// Anchored preference optimization, zero (D'Oosterlinck et al. 2024, arXiv 2408.06266).
    ApoZero,
    /// Anchored preference optimization, down (same paper).
    ApoDown,
    /// Discovered preference optimization (Lu et al. 2024, arXiv 2406.08414).
    Discopop,
    /// Length-normalised DPO (Tülu 3, Lambert et al. 2024, arXiv 2411.15124).
    SigmoidNorm,
    /// Supervised fine-tuning.
    Sft,
    /// Contrastive preference optimization (Xu et al. 2024, arXiv 2401.08417).
    Cpo,
    /// Simple preference optimization (Meng et al. 2024, arXiv 2405.14734).
    Simpo,
    /// SimPO with a shaped reward (Gupta et al. 2025, arXiv 2501.03884).
    Alphapo,
    /// Odds ratio preference optimization (Hong et al. 2024, arXiv 2403.07691).
    Orpo,
    /// Triple preference optimization (Saeidi et al. 2024, arXiv 2405.16681).
    Tpo,
    /// TPO with the hinge loss (same paper; SLiC, Zhao et al. 2023, arXiv 2305.10425).
    TpoHinge,
    /// TPO with the loss of IPO (same paper; Azar et al. 2023, arXiv 2310.12036).
    TpoIpo,
    /// TPO by length, with a target margin (same paper).
    TpoL,
    /// Kahneman–Tversky optimization (Ethayarajh et al. 2024, arXiv 2402.01306).
    Kto,
    /// Anchored preference optimization, zero, for single completions (D'Oosterlinck et al. 2024, arXiv 2408.06266).
    ApoZeroUnpaired,
    /// DPO on ranked lists (Rafailov et al. 2023, arXiv 2305.18290, appendix A.3).
    PlackettLuce,
    /// Unlikelihood (Rafailov et al. 2023, arXiv 2305.18290, a baseline).
    Unlikelihood,
    /// The Bradley–Terry loss of a reward model (Ouyang et al. 2022, arXiv 2203.02155).
    Reward,
    /// Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300).
    Grpo,
    /// GRPO with the mean over the tokens of a step (Yu et al. 2025, arXiv 2503.14476).
    Dapo,
    /// GRPO with the mean over the tokens of a micro-batch.
    Bnpo,
    /// GRPO without a bias by length (Liu et al. 2025, arXiv 2503.20783).
    DrGrpo,
    /// REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740).
    Rloo,
    /// Proximal policy optimization (Schulman et al. 2017, arXiv 1707.06347).
    Ppo,
}

impl Loss {
    /// Returns what the loss is computed from.
    pub fn needs(&self) -> Needs {
        self.terms().needs()
    }
}

/// One loss, or a weighted sum of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    losses: Vec<(Loss, f64)>,
    modifiers: Modifiers,
}

impl Default for Objective {
    fn default() -> Self {
        Self::new(Sigmoid::default())
    }
}

impl Objective {
    /// Creates an objective with one loss.
    pub fn new(loss: impl Into<Loss>) -> Self {
        Self { losses: vec![(loss.into(), 1.0)], modifiers: Modifiers::default() }
    }

    /// Returns the objective with other modifiers.
    ///
    /// # Errors
    /// [`Error::Config`] if the losses do not have what they modify.
    pub fn modified(self, modifiers: Modifiers) -> Result<Self> {
        let mut problems = Problems::default();
        let objective = Self { modifiers, ..self };
        objective.check_modifiers(&mut problems);
        problems.finish().map(|()| objective)
    }

    /// Returns what modifies the losses.
    pub fn modifiers(&self) -> &Modifiers {
        &self.modifiers
    }

    /// Returns the losses and their weights.
    pub fn losses(&self) -> &[(Loss, f64)] {
        &self.losses
    }

    /// Returns what all losses of the objective together are computed from.
    pub fn needs(&self) -> Needs {
        let all = || self.losses.iter().map(|(loss, _)| loss.needs());
        let records = all().map(|needs| needs.records).reduce(Records::with).unwrap_or(Records::Pairs);
        Needs {
            reference: all().any(|needs| needs.reference),
            mismatched: all().any(|needs| needs.mismatched),
            prompt: all().any(|needs| needs.prompt),
            // For texts the mean over tokens is taken over the step, however its batches are split.
            whole_batch: all().any(|needs| needs.whole_batch) && records != Records::Texts,
            tails: self.modifiers.ld_alpha.is_some(),
            alignment: self.modifiers.use_weighting,
            rewards: all().any(|needs| needs.rewards),
            soft_labels: all().all(|needs| needs.soft_labels),
            records,
        }
    }

    /// Returns the loss of each group of the batch and its gradient. A step divides both by the number of groups.
    ///
    /// # Errors
    /// Fails if a group does not have the completions that the losses compare, or lacks a required reference.
    pub fn weigh(&self, batch: &[Scored]) -> Result<Weighed> {
        self.weigh_batch(&Batch::new(batch))
    }

    /// Same as [`Objective::weigh`] for a part of a step over texts. `tokens_per_record` is that of the whole step, so
    /// that the mean over tokens is taken over the whole step.
    ///
    /// # Errors
    /// Same as [`Objective::weigh`].
    pub fn weigh_part(&self, batch: &[Scored], tokens_per_record: f64) -> Result<Weighed> {
        self.weigh_batch(&Batch::new(batch).within(tokens_per_record))
    }

    fn weigh_batch(&self, batch: &Batch) -> Result<Weighed> {
        if self.needs().reference && batch.iter().any(|completion| completion.ref_logp.is_none()) {
            return Err(Error::Train("the objective needs log-probs of the reference".into()));
        }
        let mut found = Weighed::zeros(batch);
        let Some(alpha) = self.modifiers.ld_alpha else {
            for (loss, weight) in &self.losses {
                loss.terms().add(batch, *weight, &mut found)?;
            }
            return Ok(found);
        };
        for (loss, weight) in &self.losses {
            // What is imitated is imitated as a whole.
            let alpha = if loss.needs().records == Records::Texts { 1.0 } else { alpha };
            let folded = modifiers::folded(batch, alpha);
            let mut part = Weighed::zeros(&folded);
            loss.terms().add(&Batch::new(&folded), *weight, &mut part)?;
            modifiers::unfold(batch, alpha, part, &mut found);
        }
        Ok(found)
    }

    /// Multiplies the loss of each pair, and its gradient, by its weight (`use_weighting`). `aligned` has, for each entry of
    /// the batch, the sum of log π_θ − log Σ π_θ² over its tokens.
    pub fn weight(&self, batch: &[Scored], aligned: &[f64], found: &mut Weighed) {
        if self.modifiers.use_weighting && aligned.len() >= batch.len() {
            modifiers::weight(batch, aligned, found);
        }
    }

    /// Returns the implicit reward of a completion, from the first loss that has one.
    pub fn reward(&self, completion: &Scored) -> Option<f64> {
        self.losses.iter().find_map(|(loss, _)| loss.terms().reward(completion))
    }

    /// Adds the groups of a batch to `metrics`.
    pub fn measure(&self, batch: &[Scored], found: &Weighed, metrics: &mut Metrics) {
        let folded = self.modifiers.ld_alpha.map(|alpha| modifiers::folded(batch, alpha));
        let batch = folded.as_deref().unwrap_or(batch);
        let takes_gold = self.needs().records == Records::Triples;
        for (group, loss) in groups(batch).zip(&found.losses).filter(|(group, _)| !is_estimate(group)) {
            metrics.add(group, *loss, self);
            if takes_gold && !group.iter().any(|it| it.role == Role::Gold) {
                metrics.lack();
            }
        }
        for (figure, sum, count) in &found.figures {
            metrics.note(*figure, *sum, *count);
        }
    }
}

impl Measure for Objective {
    fn reward(&self, completion: &Scored) -> Option<f64> {
        Self::reward(self, completion)
    }

    fn logp(&self, completion: &Scored) -> Option<f64> {
        let first = self.losses.first().map(|(loss, _)| loss.terms());
        match first {
            Some(loss) if loss.needs().rewards => None,
            Some(loss) => Some(loss.logp(completion)),
            None => Some(completion.logp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{assert_gradient, batch_for, logps};
    use super::*;

    #[test]
    fn a_weighted_sum_is_the_sum_of_its_losses() {
        let batch = logps([-41.5, -37.25, -44.0, -36.0]);
        let alone = |loss: Loss| Objective::new(loss).weigh(&batch).unwrap();
        let (sigmoid, ipo) = (alone(Sigmoid::default().into()), alone(Ipo::default().into()));
        let losses = vec![(Sigmoid::default().into(), 0.5), (Ipo::default().into(), 2.0)];
        let both = Objective { losses, modifiers: Modifiers::default() };
        let found = both.weigh(&batch).unwrap();
        assert_eq!(found.losses[0], 0.5 * sigmoid.losses[0] + 2.0 * ipo.losses[0]);
        assert_eq!(found.d_logps[1], 0.5 * sigmoid.d_logps[1] + 2.0 * ipo.d_logps[1]);
    }

    /// Every loss with its defaults, and with parameters that reach its other branches.
    fn every_loss() -> Vec<Loss> {
        let mut losses: Vec<Loss> = Loss::all()
            .into_iter()
            .filter(|loss| !matches!(loss, Loss::ExoPair(_)) && loss.on_policy().is_none())
            .collect();
        losses.extend([
            ExoPair { label_smoothing: 1e-3, ..ExoPair::default() }.into(),
            ExoPair { beta: 0.7, label_smoothing: 0.2, ..ExoPair::default() }.into(),
            Robust { beta: 0.7, label_smoothing: 0.2, ..Robust::default() }.into(),
            Sigmoid { beta: 2.0, label_smoothing: 0.4, ..Sigmoid::default() }.into(),
            Aot { beta: 0.7, label_smoothing: 0.2 }.into(),
            AotUnpaired { beta: 0.7, label_smoothing: 0.2 }.into(),
            Discopop { beta: 0.01, ..Discopop::default() }.into(),
            Cpo { cpo_alpha: 0.0, label_smoothing: 0.1, ..Cpo::default() }.into(),
            Cpo { alpha: 0.05, ..Cpo::default() }.into(),
            Simpo { beta: 2.0, cpo_alpha: 0.0, simpo_gamma: 1.2, ..Simpo::default() }.into(),
            Alphapo { beta: 2.0, alpha: 0.25, label_smoothing: 0.1, ..Alphapo::default() }.into(),
            Tpo { beta: 0.7, label_smoothing: 0.2, tpo_alpha: 0.4 }.into(),
            Tpo { tpo_alpha: 0.0, ..Tpo::default() }.into(),
            TpoHinge { beta: 0.7, tpo_alpha: 0.4 }.into(),
            TpoIpo { beta: 0.7, tpo_alpha: 0.4 }.into(),
            TpoL { beta: 2.0, label_smoothing: 0.2, tpo_alpha: 0.4, tpo_l_gamma: 1.2 }.into(),
            Unlikelihood { unlikelihood_alpha: 0.3 }.into(),
            Reward { center_rewards_coefficient: Some(0.05) }.into(),
            Kto { beta: 0.7, desirable_weight: 1.3, undesirable_weight: 0.6 }.into(),
            ApoZeroUnpaired { beta: 0.7, desirable_weight: 1.3, undesirable_weight: 0.6 }.into(),
        ]);
        for f_divergence_type in
            [FDivergenceType::ForwardKl, FDivergenceType::JsDivergence, FDivergenceType::AlphaDivergence]
        {
            losses.extend::<[Loss; 4]>([
                Sigmoid { f_divergence_type, ..Sigmoid::default() }.into(),
                Ipo { f_divergence_type, ..Ipo::default() }.into(),
                Hinge { f_divergence_type, f_alpha_divergence_coef: 2.0, ..Hinge::default() }.into(),
                SigmoidNorm { f_divergence_type, f_alpha_divergence_coef: 1.0, ..SigmoidNorm::default() }
                    .into(),
            ]);
        }
        losses
    }

    fn labels(loss: &Loss) -> &'static [f64] {
        if loss.needs().soft_labels { &[1.0, 0.9, 0.5, 0.0] } else { &[1.0] }
    }

    #[test]
    fn every_gradient_agrees_with_finite_differences() {
        for loss in every_loss() {
            for &label in labels(&loss) {
                for scale in [0.1, 1.0, 3.0] {
                    let batch = batch_for(loss.terms(), scale, label);
                    assert_gradient(&format!("{loss:?} {label} {scale}"), loss.terms(), &batch);
                }
            }
        }
    }

    /// β near 0, equal log-probs, log-ratios of ±1e4, one token, label 0.5.
    #[test]
    fn the_limits_of_every_loss_are_finite() {
        let finite = |objective: &Objective, batch: &[Scored]| {
            let found = objective.weigh(batch).unwrap();
            assert!(found.broken(batch).is_empty(), "{objective:?} {batch:?} {found:?}");
        };
        for loss in every_loss() {
            for objective in [Objective::new(loss.clone()), tiny_beta(&loss)] {
                for &label in labels(&loss) {
                    for scale in [0.0, -1.0, 4e3, -4e3, 8e3, -8e3] {
                        let batch = batch_for(loss.terms(), scale, label);
                        finite(&objective, &batch);
                        let one_token = |scored: &Scored| Scored { tokens: 1, ..*scored };
                        finite(&objective, &batch.iter().map(one_token).collect::<Vec<_>>());
                    }
                }
            }
        }
    }

    /// The same loss with β = 1e-8, if it has a β.
    fn tiny_beta(loss: &Loss) -> Objective {
        let mut fields = serde_yaml::to_value(loss).unwrap();
        if let Some(beta) = fields.get_mut("beta") {
            *beta = 1e-8.into();
        }
        Objective::new(serde_yaml::from_value::<Loss>(fields).unwrap())
    }

    #[test]
    fn a_broken_reference_breaks_the_loss() {
        for loss in every_loss().into_iter().filter(|loss| loss.needs().reference) {
            let mut batch = batch_for(loss.terms(), 1.0, 1.0);
            batch[0].ref_logp = Some(f64::NAN);
            let found = Objective::new(loss.clone()).weigh(&batch).unwrap();
            assert!(!found.broken(&batch).is_empty(), "{loss:?}");
        }
    }

    #[test]
    fn other_groups_and_missing_references_are_refused() {
        let batch = logps([-1.0, -2.0, -1.0, -2.0]);
        assert!(
            Objective::default()
                .weigh(&batch[..1])
                .unwrap_err()
                .to_string()
                .contains("a record is not a pair")
        );
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
