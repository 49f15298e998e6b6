//! Training by several processes: what they are asked to train, and what they say about it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_yaml::Value;

use super::configure;
use super::resumed::is_resuming;
use crate::cli::TrainArgs;
use crate::commands::output::say;
use crate::commands::together::Again;
use crate::config::{Recipe, RunConfig};
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::report::Reporter;
use crate::toolkit::date_of_run;
use crate::train::checkpoint::{self, State};
use crate::train::trainer::Trainer;

/// What to do when a rank is lost.
pub(super) const AGAIN: Again = Again {
    before: ". No step was made; start all ranks again",
    after: ". The same command with --auto-resume continues from the last checkpoint, or begins again if there is none, also on \
            another number of ranks",
};

/// What all ranks are asked to train, which rank 0 reads.
///
/// # Errors
/// If it is invalid.
pub(super) fn agreed(args: &TrainArgs, ranks: &Ranks) -> Result<Recipe> {
    // Each rank obeys these itself; the others count on rank 0 only.
    ranks.compare(&[("--dry-run, --force, and --resume or --auto-resume", options(args))])?;
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

/// The options that every rank obeys, in words.
fn options(args: &TrainArgs) -> String {
    let all = [("--dry-run", args.dry_run), ("--force", args.force), ("resumed", is_resuming(args))];
    let given = all.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect::<Vec<_>>();
    if given.is_empty() { "none of them".into() } else { given.join(" ") }
}

/// Gives up ranks that are silent for as long as a run says.
pub(super) fn set_patience(config: &RunConfig, ranks: &Ranks) {
    ranks.set_patience(Duration::from_secs_f64(config.train.rank_timeout));
}

/// Lets `train.gradient_accumulation_steps` count the micro-batches of a whole step: as many times the configured number as
/// there are ranks. From then on the run is the same on any number of ranks, and one that is resumed keeps its number, also in
/// stages that have not begun: its configuration may have the number that it was begun with, or one that gives the same on
/// the ranks of now.
///
/// # Errors
/// If the number is out of range, or gives another one than that of the run.
fn share_out(recipe: &mut Recipe, args: &TrainArgs, ranks: usize) -> Result<()> {
    let configs = recipe.configs_mut();
    let states: Vec<Option<State>> = match is_resuming(args) {
        true => configs.iter().map(|config| Some(checkpoint::newest(&config.output_dir).0?.1)).collect(),
        false => configs.iter().map(|_| None).collect(),
    };
    let began = states.iter().flatten().map(|state| state.ranks.max(1)).next();
    let of = |(config, state): (&&mut RunConfig, &Option<State>)| match state {
        Some(state) => kept(config.train.gradient_accumulation_steps, state, (began.unwrap_or(ranks), ranks)),
        None => Ok(None),
    };
    let factors = configs.iter().zip(&states).map(of).collect::<Result<Vec<Option<usize>>>>()?;
    // A run directory keeps the numbers of whole steps.
    let by_directory = matches!(args.resume, Some(Some(_)));
    let otherwise = if by_directory { 1 } else { began.unwrap_or(ranks) };
    let of_new = factors.iter().flatten().copied().next().unwrap_or(otherwise);
    for ((config, state), factor) in configs.into_iter().zip(&states).zip(factors) {
        let each = config.train.gradient_accumulation_steps;
        // Without a factor it was changed, which is refused by name.
        let factor = if state.is_some() { factor.unwrap_or(1) } else { of_new };
        config.train.gradient_accumulation_steps = each.checked_mul(factor).ok_or_else(|| {
            Error::Config(format!("train.gradient_accumulation_steps is {each}, too many for {factor} ranks"))
        })?;
    }
    Ok(())
}

/// The number of ranks by which a configured accumulation gives the micro-batches of a step of the run that a checkpoint is of:
/// the ranks that this run, or the first of its stages, began on, those of now, or one for the number of a whole step. `None` if
/// the accumulation was changed, and there never was more than one rank.
///
/// # Errors
/// If the accumulation gives another number, naming one that does not.
fn kept(each: usize, state: &State, (first, now): (usize, usize)) -> Result<Option<usize>> {
    let Some(all) = of_step(state) else { return Ok(None) };
    let began = state.ranks.max(1);
    // A stage that began after the run was resumed has the accumulation of the ranks that the run began on.
    let factor = [began, first, now, 1].into_iter().find(|ranks| each.checked_mul(*ranks) == Some(all));
    if factor.is_some() || (began, now) == (1, 1) {
        return Ok(factor);
    }
    let counted = |ranks: usize| format!("{ranks} rank{}", if ranks == 1 { "" } else { "s" });
    let divides = |ranks: &usize| all.is_multiple_of(*ranks);
    let was = Some(began).filter(divides);
    let was = was.map_or_else(String::new, |ranks| format!(" ({} on {})", all / ranks, counted(ranks)));
    let remedy = all / [now, began].into_iter().find(divides).unwrap_or(1);
    Err(Error::Config(format!(
        "the run cannot be resumed with another configuration: train.gradient_accumulation_steps is {each} on {}, and a step of \
         the run has {all} micro-batches{was}. Set it to {remedy}, or use --overwrite to start over",
        counted(now),
    )))
}

/// The micro-batches of a step of the run that a checkpoint is of.
fn of_step(state: &State) -> Option<usize> {
    let before: Value = serde_yaml::from_str(&state.config).ok()?;
    before.get("train")?.get("gradient_accumulation_steps")?.as_u64()?.try_into().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accumulation_that_gives_the_same_steps_resumes_a_run() {
        let of = |ranks: usize, all: usize| State {
            config: format!("train: {{gradient_accumulation_steps: {all}}}"),
            ranks,
            ..State::default()
        };
        // Begun with 2 on 3 ranks: as before, divided anew, or the number of a whole step.
        for (each, now, factor) in [(2, 2, 3), (3, 2, 2), (2, 1, 3), (6, 1, 1), (6, 2, 1), (1, 6, 6)] {
            assert_eq!(kept(each, &of(3, 6), (3, now)).unwrap(), Some(factor), "{each} on {now}");
        }
        // A stage that began on the two ranks on which a run of three goes on.
        assert_eq!(kept(2, &of(2, 6), (3, 4)).unwrap(), Some(3));
        for (each, now, words) in [
            (4, 2, "is 4 on 2 ranks, and a step of the run has 6 micro-batches (2 on 3 ranks). Set it to 3"),
            (3, 1, "is 3 on 1 rank, and a step of the run has 6 micro-batches (2 on 3 ranks). Set it to 6"),
            (1, 4, "Set it to 2, or use --overwrite"),
        ] {
            let error = kept(each, &of(3, 6), (3, now)).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
        }
        // With one process it is one of the settings that are compared.
        assert_eq!(kept(4, &of(0, 6), (1, 1)).unwrap(), None);
    }
}
