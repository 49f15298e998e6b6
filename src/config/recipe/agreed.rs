//! What the stages of a recipe must agree on.

use super::super::stage::{Begins, Stage};
use crate::error::{Problems, Result};

/// Checks the stages.
///
/// # Errors
/// [`crate::error::Error::Config`], which names all that does not fit together.
pub(super) fn check(origin: &str, stages: &[Stage]) -> Result<()> {
    let mut problems = Problems::default();
    let threads = |stage: &Stage| stage.config.train.threads;
    problems.require(stages.windows(2).all(|two| threads(&two[0]) == threads(&two[1])), || {
        format!("{origin}: train.threads is the same for all stages; move it out of stages")
    });
    let stacked = stages.iter().skip(1).any(|stage| stage.begins == Begins::Stack);
    problems.require(!stacked || stages.iter().all(|stage| !stage.config.lora.use_dora), || {
        format!(
            "{origin}: a stage is stacked, and lora.use_dora is true: only LoRA adapters are stacked into one; write adapter: \
             continue"
        )
    });
    for stage in stages.iter().filter(|_| stacked) {
        let lora = &stage.config.lora;
        let set = [
            ("modules_to_save", lora.modules_to_save.is_some()),
            ("trainable_token_indices", lora.trainable_token_indices.is_some()),
            ("prefix_tuning", lora.prefix_tuning.is_some()),
            ("adapter_layers", lora.adapter_layers.is_some()),
        ];
        for (key, _) in set.into_iter().filter(|(_, set)| *set) {
            problems.add(format!(
                "{origin}: a stage is stacked, and lora.{key} is set in {}: only LoRA adapters are stacked into one; write \
                 adapter: continue",
                stage.name
            ));
        }
    }
    let rewards =
        |stage: &Stage| stage.config.objective.resolve().is_ok_and(|objective| objective.needs().rewards);
    for (before, stage) in stages.iter().zip(stages.iter().skip(1)) {
        problems.require(!rewards(before) || rewards(stage), || {
            format!(
                "{origin}: stage {} trains a reward model, and {} would begin with it; train the reward model in a run of its own",
                before.name, stage.name
            )
        });
        problems.require(!rewards(stage) || stage.begins == Begins::Continue, || {
            format!(
                "{origin}: stage {} trains a reward model, which is not stacked on another adapter; write adapter: continue",
                stage.name
            )
        });
    }
    problems.finish()
}
