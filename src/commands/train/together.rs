//! Training by several processes: joining, sharing the configuration, and ending together.

use std::time::Duration;

use serde_yaml::Value;

use super::configure;
use super::resumed::is_resuming;
use crate::cli::TrainArgs;
use crate::commands::output::say;
use crate::commands::signals;
use crate::commands::voice;
use crate::config::{Recipe, RunConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::ranks::{Launch, Ranks, launch};
use crate::report::{Reporter, screen};
use crate::train::checkpoint;
use crate::train::config::RANK_TIMEOUT;
use crate::train::trainer::Trainer;

/// Connects this process with those that were started with it.
///
/// # Errors
/// If it was started as one of several that cannot be connected.
pub(super) fn join() -> Result<Ranks> {
    let launched = launch(|name| std::env::var(name).ok())?;
    let ranks = Ranks::join(launched, Duration::from_secs_f64(RANK_TIMEOUT))?;
    if !ranks.is_first() {
        voice::hush();
    }
    Ok(ranks)
}

/// Runs `work` on every rank. If it fails on one, all end with its message.
///
/// # Errors
/// Those of `work`.
pub(super) fn all(ranks: &Ranks, work: impl FnOnce() -> Result<()>) -> Result<()> {
    ranks.on_failure(Box::new(|why| {
        files::remove_temporaries();
        let _ = screen::line_after_key(&format!("error: {why}{}", again()));
        signals::exit(1);
    }));
    match work() {
        Ok(()) => ranks.leave(),
        // All have stopped after the same step, and rank 0 has written the checkpoint.
        Err(Error::Interrupted { code, kept, run }) => {
            ranks.leave()?;
            if !ranks.is_first() {
                signals::exit(code);
            }
            Err(Error::Interrupted { code, kept, run })
        }
        Err(Error::Ranks(why)) => {
            ranks.fail(&Error::Ranks(why.clone()));
            Err(Error::Ranks(why + again()))
        }
        Err(error) => {
            ranks.fail(&error);
            Err(error)
        }
    }
}

/// What to do when a rank is lost.
fn again() -> &'static str {
    ". The last checkpoint is complete; the same command with --auto-resume continues from it, also on another number of ranks"
}

/// The configuration of all ranks, which rank 0 reads.
///
/// # Errors
/// If it is invalid, or has stages.
pub(super) fn agreed(args: &TrainArgs, ranks: &Ranks) -> Result<RunConfig> {
    let config = if ranks.is_first() {
        let Recipe::Single(mut config) = configure::recipe(args)? else {
            return Err(Error::Config(
                "a run with stages is trained by one process; train the stages one after another as runs of their own, with \
                 lora.init_from or model.adapter"
                    .into(),
            ));
        };
        share_out(&mut config, args, ranks.size())?;
        ranks.broadcast(config.to_yaml()?.into_bytes())?;
        *config
    } else {
        let text = ranks.broadcast(Vec::new())?;
        RunConfig::from_yaml(&String::from_utf8_lossy(&text), "the configuration of rank 0", &[])?
    };
    ranks.set_patience(Duration::from_secs_f64(config.train.rank_timeout));
    Ok(config)
}

/// Lets `train.gradient_accumulation_steps` count the micro-batches of a whole step: as many times the configured number as
/// there are ranks. From then on the run is the same on any number of ranks, and one that is resumed keeps its number.
///
/// # Errors
/// If the number is out of range.
pub(super) fn share_out(config: &mut RunConfig, args: &TrainArgs, ranks: usize) -> Result<()> {
    let each = config.train.gradient_accumulation_steps;
    let by_directory = matches!(args.resume, Some(Some(_)));
    if is_resuming(args)
        && let Some((_, state)) = checkpoint::newest(&config.output_dir).0
    {
        let before: Option<Value> = serde_yaml::from_str(&state.config).ok();
        let all = before.and_then(|before| before.get("train")?.get("gradient_accumulation_steps")?.as_u64());
        let began = state.ranks.max(1);
        if let Some(all) = all.and_then(|all| usize::try_from(all).ok())
            && (each.checked_mul(began) == Some(all) || by_directory && each == all)
        {
            config.train.gradient_accumulation_steps = all;
        }
        // Otherwise it was changed, which is refused by name.
        return Ok(());
    }
    if by_directory {
        return Ok(());
    }
    let all = each.checked_mul(ranks).ok_or_else(|| {
        Error::Config(format!("train.gradient_accumulation_steps is {each}, too many for {ranks} ranks"))
    })?;
    config.train.gradient_accumulation_steps = all;
    Ok(())
}

/// The threads of this rank: its share of the processors, unless the configuration says.
pub(super) fn threads(config: &RunConfig, ranks: &Ranks) -> Option<usize> {
    let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = (!ranks.is_alone()).then(|| (all() / ranks.sharing().max(1)).max(1));
    config.train.threads.or(share)
}

/// Refuses a launch of several processes, of a command that one process runs.
///
/// # Errors
/// If it is one.
pub(in crate::commands) fn refuse(command: &str) -> Result<()> {
    match launch(|name| std::env::var(name).ok())? {
        Launch::Alone => Ok(()),
        _ => Err(Error::Config(format!(
            "`{command}` runs as one process, and several were started; start one"
        ))),
    }
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
