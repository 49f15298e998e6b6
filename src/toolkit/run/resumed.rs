//! Going on from the newest checkpoint of a run.

use std::path::Path;

use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::files;
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
    config: &RunConfig,
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
    notes.extend(config.compare_for_resume(&state.config)?);
    if !ranks.is_alone() {
        ranks.broadcast(packed(&path)?)?;
    }
    notes.extend(other_ranks(&state, ranks.size()));
    trainer.restore(&path, state)?;
    notes.push(format!("resumed from {}", path.display()));
    let (done, all) = (trainer.step(), trainer.total_steps());
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
        format!("the run was started on {began} rank(s) and goes on on {now}: its steps have the same micro-batches, and its bytes do not change")
    })
}

/// The files of a checkpoint: for each its path in it and its bytes, behind their lengths.
fn packed(checkpoint: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for name in checkpoint::files(checkpoint) {
        let path = checkpoint.join(&name);
        let content = std::fs::read(&path).map_err(Error::read(&path))?;
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(content);
    }
    Ok(bytes)
}

/// Restores the checkpoint that rank 0 sends, if there is one.
fn restore_sent(trainer: &mut Trainer, ranks: &Ranks) -> Result<()> {
    let bytes = ranks.broadcast(Vec::new())?;
    if bytes.is_empty() {
        return Ok(());
    }
    let place = tempfile::tempdir().map_err(Error::write(std::env::temp_dir()))?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let damaged = || Error::Ranks("the checkpoint that rank 0 sent is damaged".into());
        let (name, content, behind) = part(rest).ok_or_else(damaged)?;
        // Names of a checkpoint: a file, or one in a directory.
        if name.starts_with(['/', '.']) || name.contains("..") || name.contains('\\') {
            return Err(damaged());
        }
        let path = place.path().join(name);
        std::fs::create_dir_all(files::parent(&path)).map_err(Error::write(&path))?;
        std::fs::write(&path, content).map_err(Error::write(&path))?;
        rest = behind;
    }
    let state = checkpoint::open(place.path())?;
    trainer.restore(place.path(), state)
}

/// A name, its content, and what is behind.
fn part(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (name, rest) = sized(bytes)?;
    let (content, rest) = sized(rest)?;
    Some((std::str::from_utf8(name).ok()?, content, rest))
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}
