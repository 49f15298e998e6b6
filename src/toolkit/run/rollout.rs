//! What a run needs to draw completions and to reward them.

use std::path::Path;
use std::time::Duration;

use super::super::{AdapterUse, Base, TrainedWith, reward_in_short};
use crate::config::RunConfig;
use crate::error::Result;
use crate::reward::{Command, Spec};
use crate::train::rollouts::{RewardSource, RolloutSource};
use crate::trainable::Policy;

/// Returns where completions and rewards come from; `None` if nothing is drawn.
///
/// # Errors
/// If a reward is invalid, or its adapter does not fit the base.
pub(super) fn source(config: &RunConfig, base: &Base) -> Result<Option<RolloutSource>> {
    let Some(drawing) = config.drawing()? else { return Ok(None) };
    let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
    let timeout = Duration::from_secs(drawing.reward_timeout);
    let mut rewards = Vec::with_capacity(drawing.rewards.len());
    let mut identities = Vec::with_capacity(drawing.rewards.len());
    for (spec, weight) in &drawing.rewards {
        let spec: Spec = spec.parse()?;
        let own = match &spec {
            Spec::Adapter(directory) => adapter(base, Path::new(directory), spec.to_string())?,
            Spec::Command(program) => {
                let command = Command::new(program, timeout)?.limited_by("rollout.reward_timeout");
                RewardSource::Plain(Box::new(command))
            }
            Spec::Length | Spec::Regex(_) | Spec::TinyReviews => RewardSource::Plain(spec.plain(timeout)?),
        };
        rewards.push((own, *weight));
        identities.push(reward_in_short(&spec)?);
    }
    let eos = base.eos(&tokenizer);
    Ok(Some(RolloutSource { drawing, tokenizer, eos, rewards, identities }))
}

fn adapter(base: &Base, directory: &Path, name: String) -> Result<RewardSource> {
    let purpose = AdapterUse { score: true, ..AdapterUse::default() };
    let policy = Policy::of(base.adapter_for(directory, purpose)?);
    let trained = TrainedWith::of(directory)?;
    if policy.trained.score().is_some() {
        return Ok(RewardSource::Model(policy, base.tokenizer(None)?.padding(), name));
    }
    let objective =
        trained.objective_of(&directory.display(), "name the adapter as dpo-lora train or export wrote it");
    Ok(RewardSource::Implicit(policy, objective, name))
}
