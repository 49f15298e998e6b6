//! What a run keeps: checkpoints and the adapter, as long as they are usable.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Setup, Trainer};
use crate::adapter::peft;
use crate::error::{Error, Result};
use crate::files;
use crate::report::{Event, Reporter};
use crate::train::best::Best;
use crate::train::card::Results;
use crate::train::checkpoint::{self, State};
use crate::train::run_dir;
use crate::train::usable;
use crate::trainable::SCORE;

/// Whether a file could not be written for want of space: the disk, a quota, or the limit of a file's size.
fn lacks_space(error: &Error) -> bool {
    const FULL: [ErrorKind; 3] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    matches!(error, Error::Io { source, .. } if FULL.contains(&source.kind()))
}

impl Trainer {
    /// Writes a checkpoint if there are none by steps and `save_minutes` have passed since the last one. What the clock has
    /// begun does not end a run: a checkpoint that cannot be written is told, and tried again when as much time has passed.
    /// Only rank 0 writes any, so the others need not agree.
    pub(super) fn save_by_time(&mut self, reporter: &mut Reporter) {
        let config = &self.setup.config;
        let Some(minutes) = config.save_minutes.filter(|_| config.save_steps.is_none()) else { return };
        if self.saved_at.elapsed().as_secs_f64() < 60.0 * minutes {
            return;
        }
        if let Err(error) = self.save(reporter) {
            self.tell_unsaved(&error, reporter);
        }
        self.saved_at = Instant::now();
    }

    /// Writes a checkpoint that is due by `save_steps`. If only space is missing, the run goes on: earlier checkpoints stay valid, and
    /// later ones may have room again.
    pub(super) fn save_by_steps(&mut self, reporter: &mut Reporter) -> Result<()> {
        match self.save(reporter) {
            Err(error) if lacks_space(&error) => {
                self.tell_unsaved(&error, reporter);
                Ok(())
            }
            saved => saved,
        }
    }

    fn tell_unsaved(&self, error: &Error, reporter: &mut Reporter) {
        reporter.warn(&format!("there is no checkpoint of step {}: {error}", self.state.step));
    }

    /// Writes the checkpoint of the last step. If it cannot be written, the run still has its adapter to write: the error is returned
    /// as a value, to be told after that.
    pub(super) fn save_last(&mut self, reporter: &mut Reporter) -> Result<Option<Error>> {
        match self.save(reporter) {
            Ok(()) => Ok(None),
            Err(error @ Error::Io { .. }) => Ok(Some(error)),
            Err(other) => Err(other),
        }
    }

    /// The error for a run that is done but has no checkpoint of its last step.
    pub(super) fn without_checkpoint(&self, error: &Error) -> Error {
        Error::Train(format!(
            "{} is written and complete, but there is no checkpoint of step {}, which only training further needs: {error}; {}",
            self.setup.run.join("adapter").display(),
            self.state.step,
            self.kept()
        ))
    }

    /// Returns a warning if the file system has less room than the run's files take.
    pub fn room(&self) -> Option<String> {
        let Setup { run, policy, config, .. } = &self.setup;
        checkpoint::room(run, policy.trained.values().len(), config, self.total_steps)
    }

    /// Writes a checkpoint unless this step already has one, and never for an unusable adapter. The reference cache is
    /// only a convenience: failure to write it is reported and does not end the run.
    pub(super) fn save(&mut self, reporter: &mut Reporter) -> Result<()> {
        if self.saved == Some(self.state.step) || !self.setup.ranks.is_first() {
            return Ok(());
        }
        let Setup { decoder, policy, .. } = &mut self.setup;
        decoder.fetch(policy)?;
        self.optimizer.fetch(decoder, policy)?;
        let Setup { run, decoder, policy, config, train, objective, .. } = &self.setup;
        let probe = self.probe.map(|i| train.get(i)).transpose()?.flatten();
        if let Some(defect) = usable::defect(decoder, policy, (probe.as_ref(), objective.needs()))? {
            return Err(self.diverged(&defect));
        }
        // Everything logged so far must be on disk before the checkpoint, because a resumed run relies on it.
        reporter.record(&Event::Checkpoint);
        let write = |place: &Path| self.write_adapters(place);
        let (store, limit) = (policy.trained.store(), config.save_total_limit);
        let left = checkpoint::save(run, store, &self.state, write, limit)?;
        if let Some(error) = left {
            reporter.warn(&format!("an old checkpoint cannot be removed: {error}"));
        }
        (self.saved, self.saved_at) = (Some(self.state.step), Instant::now());
        let step = self.state.step;
        reporter.record(&Event::Saved { step, bytes: files::size(&checkpoint::path(run, step)) });
        if let Err(error) = self.setup.reference.save() {
            reporter.warn(&format!("reference log-probs are kept in memory only: {error}"));
        }
        Ok(())
    }

    /// Writes the trained adapter, without the value head that only its training needs.
    fn write_adapter(&self, directory: &Path) -> Result<()> {
        let Setup { decoder, policy, dropout, origin, .. } = &self.setup;
        let plain = self.has_value_head().then(|| policy.trained.of_modules(|module| module != SCORE));
        let adapters = plain.as_ref().unwrap_or(&policy.trained);
        peft::write(directory, adapters, decoder.spec(), *dropout, origin)
    }

    /// Whether the scalar head is PPO's, and not a reward model's.
    fn has_value_head(&self) -> bool {
        self.setup.policy.trained.score().is_some() && !self.setup.objective.needs().rewards
    }

    /// Writes the adapters of a checkpoint.
    fn write_adapters(&self, place: &Path) -> Result<()> {
        let Setup { decoder, policy, dropout, origin, config, .. } = &self.setup;
        self.write_adapter(&place.join(checkpoint::ADAPTER))?;
        if self.has_value_head() {
            let directory = place.join(checkpoint::VALUE);
            peft::write(&directory, &policy.trained, decoder.spec(), *dropout, origin)?;
        }
        match policy.reference_only().filter(|_| config.sync_ref_model) {
            Some(moving) => {
                let directory = place.join(checkpoint::REFERENCE);
                peft::write(&directory, moving, decoder.spec(), *dropout, origin)
            }
            None => Ok(()),
        }
    }

    /// Moves the reference towards the policy if this step is one of those after which it moves, as TRL's
    /// `SyncRefModelCallback` does.
    pub(super) fn move_reference(&mut self) -> Result<()> {
        let Setup { decoder, policy, config, reference, .. } = &mut self.setup;
        if config.sync_ref_model && self.state.step.is_multiple_of(config.ref_model_sync_steps.max(1)) {
            decoder.fetch(policy)?;
            policy.move_reference(config.ref_model_mixup_alpha);
            reference.forget();
        }
        Ok(())
    }

    /// The error for an adapter that is unusable at this step.
    pub(super) fn diverged(&self, defect: &str) -> Error {
        let message = format!(
            "the adapter cannot be used after step {}: {defect}. train.learning_rate of {:e} is too high for this run: start \
             over with a lower one; {}",
            self.state.step,
            self.setup.config.learning_rate,
            self.kept()
        );
        let last_good = checkpoint::newest(&self.setup.run).0.map(|(path, _)| path);
        Error::Diverged { step: self.state.step, last_good, message }
    }

    /// The error for consecutive steps without a usable gradient.
    pub(super) fn nothing_learned(&self) -> Error {
        Error::Train(format!(
            "the last {} step(s) had no usable gradient. Look at the pairs named above, or start over with a lower \
             train.learning_rate (it is {:e}); {}",
            self.state.skipped_in_a_row,
            self.setup.config.learning_rate,
            self.kept()
        ))
    }

    /// The error for a run that a signal stopped after a checkpoint was written.
    pub(super) fn interrupted(&self, code: u8) -> Error {
        let (run, step) = (&self.setup.run, self.state.step);
        let kept = format!(
            "interrupted after step {step} of {}; {} is kept",
            self.total_steps,
            checkpoint::path(run, step).display()
        );
        Error::Interrupted { code, kept, run: files::shell_word(run) }
    }

    /// Keeps what was learned before a step whose completions could not be drawn or rewarded: such a step has changed nothing, so
    /// that a checkpoint of the one before it is whole. The error says where it is.
    pub(super) fn kept_before(&mut self, error: Error, reporter: &mut Reporter) -> Error {
        let step = self.state.step;
        if !std::mem::take(&mut self.undrawn) || step == 0 || !self.setup.ranks.is_first() {
            return error;
        }
        let saved = self.save(reporter);
        let signal = self.setup.stop.load(Ordering::Relaxed);
        if signal != 0 && saved.is_ok() {
            // Ctrl-C also ends a command that computes rewards.
            reporter.record(&Event::End { interrupted: true });
            return self.interrupted(signal);
        }
        let kept = match saved {
            Ok(()) => {
                let run = &self.setup.run;
                // A stage is continued with the whole run.
                let whole = run_dir::whole_of(run);
                format!(
                    "the run ended after step {step} of {}, and {} is kept; when the cause is mended, continue with: dpo-lora train \
                     --resume {}",
                    self.total_steps,
                    checkpoint::path(run, step).display(),
                    files::shell_word(whole.as_deref().unwrap_or(run))
                )
            }
            Err(failed) => {
                format!("the run ended after step {step}, of which no checkpoint could be written: {failed}")
            }
        };
        match error {
            Error::Data(message) => Error::Data(format!("{message}; {kept}")),
            Error::Config(message) => Error::Config(format!("{message}; {kept}")),
            other => {
                reporter.warn(&kept);
                other
            }
        }
    }

    /// Describes what a failed run leaves behind.
    fn kept(&self) -> String {
        match checkpoint::newest(&self.setup.run).0 {
            Some((path, _)) => format!("{} is the last good checkpoint", path.display()),
            None => "no checkpoint was written before".into(),
        }
    }

    /// Loads the best checkpoint if configured, and writes `adapter/`.
    pub(super) fn finish(&mut self, reporter: &mut Reporter) -> Result<()> {
        if self.state.skipped_in_a_row > 0 {
            // Not before rank 0 has written the checkpoint: the error ends all ranks.
            self.setup.ranks.meet()?;
            return Err(self.nothing_learned());
        }
        if !self.setup.ranks.is_first() {
            return Ok(());
        }
        let mut kept = self.state.step;
        if let Some((best, path)) = self.better_one(reporter) {
            let state = checkpoint::open(&path)?;
            let Setup { decoder, policy, reference, config, .. } = &mut self.setup;
            checkpoint::restore(&path, &state, decoder.spec(), policy, &mut self.optimizer)?;
            if config.sync_ref_model {
                // The log-probs are those of the last reference, not of the one that was restored.
                reference.forget();
            }
            self.evaluated = None;
            kept = best.step;
            let metric = self.setup.config.criterion().metric;
            reporter.note(&format!("adapter/ is that of step {}, {metric} {:.4}", best.step, best.value));
        }
        let Setup { decoder, policy, .. } = &mut self.setup;
        decoder.fetch(policy)?;
        let after = self.evaluate()?;
        if let (Some(found), true) = (&after, kept != self.state.step) {
            self.tell_pairs(kept, found, reporter)?;
        }
        let State { step, initial_accuracy, initial, .. } = &self.state;
        let results = Results { step: *step, before: *initial_accuracy, initial, after: after.as_ref() };
        let card = self.setup.card.text(results);
        files::write_directory(&self.setup.run.join("adapter"), true, |new| {
            self.write_adapter(new)?;
            let companions = self.setup.companions.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
            companions
                .chain([("README.md", card.as_bytes())])
                .try_for_each(|(name, bytes)| files::write_bytes(&new.join(name), bytes))
        })?;
        self.sample(kept, reporter);
        self.tidy(reporter);
        Ok(())
    }

    /// Returns the best evaluation and its checkpoint, if the adapter of an earlier step is to be written.
    fn better_one(&self, reporter: &mut Reporter) -> Option<(Best, PathBuf)> {
        let Self { state, setup, .. } = self;
        let wanted = |best: &&Best| setup.config.load_best_model_at_end && best.step != state.step;
        let best = state.best.as_ref().filter(wanted)?;
        let path = checkpoint::path(&setup.run, best.step);
        if path.exists() {
            return Some((best.clone(), path));
        }
        reporter.warn(&format!(
            "step {} was better, but its checkpoint could not be written; adapter/ is that of the last step",
            best.step
        ));
        None
    }

    /// Removes the spare checkpoint once the run is over, and tells what is left.
    fn tidy(&self, reporter: &mut Reporter) {
        let run = &self.setup.run;
        let limit = self.setup.config.save_total_limit.map(|limit| limit.saturating_sub(1).max(1));
        if let Err(error) = checkpoint::prune(run, &self.state, limit) {
            reporter.warn(&format!("an old checkpoint cannot be removed: {error}"));
        }
        if let Some(step) = checkpoint::saved_steps(run).first() {
            let path = checkpoint::path(run, *step);
            let size = files::size(&path) as f64 / 1e6;
            reporter.note(&format!(
                "{} ({size:.1} MB) is kept for --resume, to train further; adapter/ does not need it",
                path.display()
            ));
        }
    }
}
