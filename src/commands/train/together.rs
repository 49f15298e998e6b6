//! Training by several processes: what they are asked to train, and what they say about it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_yaml::Value;

use super::configure;
use super::resumed::is_resuming;
use crate::cli::TrainArgs;
use crate::commands::output::say;
use crate::config::{Recipe, RunConfig};
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::report::Reporter;
use crate::toolkit::date_of_run;
use crate::train::checkpoint::{self, State};
use crate::train::trainer::Trainer;

/// What to do when a rank is lost.
pub(super) const AGAIN: &str = ". The last checkpoint is complete; the same command with --auto-resume continues from it, also on another number of ranks";

/// What all ranks are asked to train, which rank 0 reads.
///
/// # Errors
/// If it is invalid.
pub(super) fn agreed(args: &TrainArgs, ranks: &Ranks) -> Result<Recipe> {
    if !ranks.is_first() {
        let text = ranks.broadcast(Vec::new())?;
        return Recipe::from_yaml(&String::from_utf8_lossy(&text), "the configuration of rank 0", &[]);
    }
    let mut recipe = configure::recipe(args)?;
    share_out(&mut recipe, args, ranks.size())?;
    if !ranks.is_alone() && is_resuming(args) {
        // The others need not see the run directory.
        recipe.configs_mut().into_iter().for_each(date_of_run);
    }
    let text = match &recipe {
        Recipe::Single(config) => config.to_yaml()?,
        Recipe::Staged(staged) => staged.to_yaml()?,
    };
    ranks.broadcast(text.into_bytes())?;
    Ok(recipe)
}

/// Gives up ranks that are silent for as long as a run says.
pub(super) fn set_patience(config: &RunConfig, ranks: &Ranks) {
    ranks.set_patience(Duration::from_secs_f64(config.train.rank_timeout));
}

/// Lets `train.gradient_accumulation_steps` count the micro-batches of a whole step: as many times the configured number as
/// there are ranks. From then on the run is the same on any number of ranks, and one that is resumed keeps its number, also in
/// stages that have not begun.
///
/// # Errors
/// If the number is out of range.
fn share_out(recipe: &mut Recipe, args: &TrainArgs, ranks: usize) -> Result<()> {
    let by_directory = matches!(args.resume, Some(Some(_)));
    let configs = recipe.configs_mut();
    let states: Vec<Option<State>> = match is_resuming(args) {
        true => configs.iter().map(|config| Some(checkpoint::newest(&config.output_dir).0?.1)).collect(),
        false => configs.iter().map(|_| None).collect(),
    };
    let began = states.iter().flatten().map(|state| state.ranks.max(1)).next();
    for (config, state) in configs.into_iter().zip(&states) {
        let each = config.train.gradient_accumulation_steps;
        let Some(state) = state else {
            if !by_directory {
                let ranks = began.unwrap_or(ranks);
                config.train.gradient_accumulation_steps = each.checked_mul(ranks).ok_or_else(|| {
                    Error::Config(format!(
                        "train.gradient_accumulation_steps is {each}, too many for {ranks} ranks"
                    ))
                })?;
            }
            continue;
        };
        let before: Option<Value> = serde_yaml::from_str(&state.config).ok();
        let all = before.and_then(|before| before.get("train")?.get("gradient_accumulation_steps")?.as_u64());
        // A stage that began after the run was resumed has the accumulation of the ranks that the run began on.
        let is_of = |all: usize| {
            [Some(state.ranks.max(1)), began]
                .into_iter()
                .flatten()
                .any(|ranks| each.checked_mul(ranks) == Some(all))
        };
        if let Some(all) = all.and_then(|all| usize::try_from(all).ok())
            && (is_of(all) || by_directory && each == all)
        {
            config.train.gradient_accumulation_steps = all;
        }
        // Otherwise it was changed, which is refused by name.
    }
    Ok(())
}

/// The signal that any rank has received, or 0.
///
/// # Errors
/// If a rank has failed.
pub(super) fn signalled(ranks: &Ranks, stop: &AtomicU8) -> Result<u8> {
    let all = ranks.gather(vec![stop.load(Ordering::Relaxed)])?;
    Ok(all.iter().flatten().copied().max().unwrap_or(0))
}

/// Tells how long rank 0 has waited for the others.
pub(super) fn conclude(ranks: &Ranks, seconds: f64) {
    if !ranks.is_alone() {
        let waited = ranks.waited().as_secs_f64();
        say(&format!(
            "rank 0 waited {waited:.1} s ({:.0} %) for other ranks and the network",
            100.0 * waited / seconds.max(1e-9)
        ));
    }
}

/// Tells how the ranks share a step.
pub(super) fn describe(trainer: &Trainer, ranks: &Ranks, reporter: &mut Reporter) {
    if ranks.is_alone() {
        return;
    }
    let bytes = 4 * trainer.policy().trained.values().len();
    reporter.note(&format!(
        "{} ranks share the micro-batches of each step; {:.1} MB of gradient pass between them",
        ranks.size(),
        bytes as f64 / 1e6
    ));
}
