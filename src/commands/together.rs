//! Commands that several processes share: joining, agreeing, and ending together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::output::hush;
use super::signals;
use super::voice;
use crate::error::{Error, Result};
use crate::files;
use crate::model::pass::Pass;
use crate::ranks::{Launch, Ranks, launch};
use crate::report::screen;
use crate::toolkit::drawn::{Drawn, identity};
use crate::toolkit::{Adapted, current_threads, with_threads};
use crate::train::config::RANK_TIMEOUT;
use crate::train::memory;

/// What to do after a failure of a rank.
#[derive(Clone, Copy)]
pub(super) struct Again {
    /// Before all ranks have agreed on what they compute.
    pub before: &'static str,
    /// When they have begun.
    pub after: &'static str,
}

impl Again {
    const fn always(text: &'static str) -> Self {
        Self { before: text, after: text }
    }

    fn text(self, has_begun: &AtomicBool) -> &'static str {
        if has_begun.load(Ordering::Relaxed) { self.after } else { self.before }
    }
}

/// For a command that keeps nothing.
pub(super) const FROM_THE_START: Again = Again::always(". Start all ranks again");

/// For a command that keeps what it has drawn.
pub(super) const FROM_WHAT_IS_KEPT: Again = Again::always(
    ". What was drawn is kept; the same command goes on with it, also on another number of ranks",
);

/// Connects this process with those that were started with it. All but the first print nothing.
///
/// # Errors
/// If it was started as one of several that cannot be connected.
pub(super) fn join() -> Result<Ranks> {
    let launched = launch(|name| std::env::var(name).ok())?;
    let available = memory::available();
    let ranks = Ranks::join(launched, Duration::from_secs_f64(RANK_TIMEOUT))?.with_available(available);
    ranks.compare(&[("its command", command(&arguments()))])?;
    if !ranks.is_first() {
        voice::hush();
        hush();
    }
    Ok(ranks)
}

/// The arguments of this process.
fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// The words of a command line that name the command: those between the global options and the first of its own.
fn command(arguments: &[String]) -> String {
    let words = arguments.iter().skip_while(|word| word.starts_with('-'));
    words.take_while(|word| !word.starts_with('-')).cloned().collect::<Vec<_>>().join(" ")
}

/// Joins the other ranks and runs `work` on each. `again` says what to do if a rank is lost.
///
/// # Errors
/// As [`join`] and [`all`].
pub(super) fn shared(again: Again, work: impl FnOnce(&Ranks) -> Result<()>) -> Result<()> {
    let ranks = join()?;
    all(&ranks, again, || work(&ranks))
}

/// Runs `work` on every rank. If it fails on one, all end with its message.
///
/// # Errors
/// Those of `work`.
pub(super) fn all(ranks: &Ranks, again: Again, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if ranks.is_alone() {
        return work();
    }
    let has_begun = ranks.has_begun();
    let begun = has_begun.clone();
    ranks.on_failure(Box::new(move |why| {
        files::remove_temporaries();
        let _ = screen::line_after_key(&format!("error: {why}{}", again.text(&begun)));
        signals::exit(1);
    }));
    let done = work();
    let left = match &done {
        // If it was interrupted, all have stopped after the same step, and rank 0 has written the checkpoint.
        Ok(()) | Err(Error::Interrupted { .. }) => ranks.leave(),
        Err(_) => Ok(()),
    };
    match left.and(done) {
        Ok(()) => Ok(()),
        Err(Error::Interrupted { code, kept, run }) => {
            if !ranks.is_first() {
                signals::exit(code);
            }
            Err(Error::Interrupted { code, kept, run })
        }
        Err(Error::Ranks(why)) => {
            ranks.fail(&Error::Ranks(why.clone()));
            Err(Error::Ranks(why + again.text(&has_begun)))
        }
        Err(error) => {
            ranks.fail(&error);
            Err(error)
        }
    }
}

/// The threads of this rank: as many as were asked for, else its share of the processors.
pub(super) fn threads(asked: Option<usize>, ranks: &Ranks) -> Option<usize> {
    let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = (!ranks.is_alone()).then(|| (all() / ranks.sharing().max(1)).max(1));
    asked.or(share)
}

/// Reads data on one rank of each machine first, with the threads of all that wait for it, and then on the others.
///
/// # Errors
/// Those of `read`, or if a rank has failed.
pub(super) fn read<T: Send>(ranks: &Ranks, read: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if ranks.sharing() == 1 {
        return ranks.once_per_machine(read);
    }
    let all = current_threads() * ranks.sharing();
    ranks.once_per_machine(|| if ranks.local() == 0 { with_threads(all, read) } else { read() })
}

/// Checks that all ranks compute the same with the same model. `records` is a fingerprint of what they compute it of.
///
/// # Errors
/// If a rank differs, or computes on a device.
pub(super) fn agree(ranks: &Ranks, adapted: &Adapted, records: String) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    if adapted.decoder.is_on_device() {
        return Err(Error::Config(
            "several ranks compute on the processor only; write --device cpu, or start one process".into(),
        ));
    }
    let computes = identity(Drawn { adapted, pass: Pass::Policy, name: "" })?;
    let ends = adapted.base.eos(&adapted.tokenizer);
    ranks.agree(&[
        ("its version", env!("CARGO_PKG_VERSION").into()),
        ("its arguments", arguments().join(" ")),
        ("the base, its storage type, its adapters, or the instruction set of its processor", computes),
        ("the tokens that end a completion (generation_config.json)", format!("{ends:?}")),
        ("what it reads: the records or prompts, or how they are tokenized or truncated", records),
    ])
}

/// Refuses a launch of several processes, of a command that one process runs.
///
/// # Errors
/// If it is one.
pub(super) fn refuse(command: &str) -> Result<()> {
    match launch(|name| std::env::var(name).ok())? {
        Launch::Alone => Ok(()),
        _ => Err(Error::Config(format!(
            "`{command}` runs as one process, and several were started; start one"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_command_are_found_between_options() {
        for (line, words) in [
            ("train -c run.yaml", "train"),
            ("-q -v train --set a=b", "train"),
            ("eval win-rate --base b", "eval win-rate"),
            ("eval --base b --data d", "eval"),
            ("", ""),
        ] {
            let arguments: Vec<String> = line.split_whitespace().map(String::from).collect();
            assert_eq!(command(&arguments), words, "{line}");
        }
    }
}
