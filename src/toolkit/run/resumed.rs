//! Going on from the newest checkpoint of a run.

use super::super::Base;
use super::super::parcel::{packed, unpack};
use super::continued;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::train::checkpoint::{self, State};
use crate::train::run_dir::RunDir;
use crate::train::trainer::Trainer;

/// Continues from the newest valid checkpoint, if there is one; returns a notice. Only rank 0 needs the run directory: it sends
/// the checkpoint to the others.
///
/// # Errors
/// If the checkpoint belongs to another run, or a rank has failed.
pub(super) fn resume(
    trainer: &mut Trainer,
    (config, base): (&RunConfig, &Base),
    directory: &RunDir,
    ranks: &Ranks,
) -> Result<Vec<String>> {
    if !ranks.is_first() {
        return restore_sent(trainer, ranks).map(|()| Vec::new());
    }
    let (found, mut notes) = checkpoint::newest(directory.path());
    let Some((path, state)) = found else {
        ranks.broadcast(Vec::new())?;
        notes.push("there is no valid checkpoint yet; the run starts at step 0".into());
        return Ok(notes);
    };
    notes.extend(config.compare_for_resume(&continued::noted(&state.config, config))?);
    if !ranks.is_alone() {
        ranks.broadcast(packed(&path, &checkpoint::files(&path))?)?;
    }
    notes.extend(other_ranks(&state, ranks.size()));
    if trainer.evaluates_others(&state) {
        notes.push(
            "warning: the held-out records have changed since the checkpoint: evaluations before and after it do not compare, \
             and the best adapter is chosen among both"
                .into(),
        );
    }
    trainer.restore(&path, state)?;
    base.check_architecture(&path.join(checkpoint::ADAPTER), false)?;
    notes.push(format!("resumed from {}", path.display()));
    let (done, all) = (trainer.step(), trainer.total_steps());
    if done > all {
        return Err(Error::Config(format!(
            "{} is of step {done}, and the run would now have {all} (train.max_steps, train.num_train_epochs): a run does not \
             go back. Set train.max_steps to {done} or more, or use --overwrite to start over",
            path.display()
        )));
    }
    if done >= all {
        notes.push(format!(
            "it is at step {done} of {all}: nothing is left to train; set train.max_steps above {done} to continue"
        ));
    }
    Ok(notes)
}

fn other_ranks(state: &State, now: usize) -> Option<String> {
    let began = state.ranks.max(1);
    (began != now).then(|| {
        format!("the run was started on {began} rank(s) and continues on {now}: its steps have the same micro-batches, and its bytes do not change")
    })
}

/// Restores the checkpoint that rank 0 sends, if there is one.
fn restore_sent(trainer: &mut Trainer, ranks: &Ranks) -> Result<()> {
    let bytes = ranks.broadcast(Vec::new())?;
    if bytes.is_empty() {
        return Ok(());
    }
    let place = tempfile::tempdir().map_err(Error::write(std::env::temp_dir()))?;
    unpack(&bytes, place.path())?;
    let state = checkpoint::open(place.path())?;
    trainer.restore(place.path(), state)
}
