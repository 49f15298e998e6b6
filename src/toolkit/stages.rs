//! Runs that follow one another: what is left to do of them, and the adapter that they end with.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::parcel::{packed, unpack};
use super::run::{self, Inputs};
use super::{Base, TrainedWith, companions};
use crate::adapter::peft;
use crate::config::{Begins, RunConfig, Stage, Staged};
use crate::error::{Error, Result};
use crate::files;
use crate::model::initialisation::InitLoraWeights;
use crate::ranks::Ranks;
use crate::train::{checkpoint, run_dir};
use crate::trainable::Adapters;

/// The file of an adapter's model card.
const CARD: &str = "README.md";

/// A stage that is to be run, or was.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Its data and settings; `None` if an earlier process finished it.
    pub inputs: Option<Inputs>,
}

/// What an earlier process did of a run that is continued: for each stage that is finished, the date that its template prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    finished: Vec<Option<Finished>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Finished {
    date: Option<String>,
}

impl Before {
    /// Looks into the directories of the stages; with `resume`, a stage that was finished is left as it is.
    ///
    /// # Errors
    /// If a finished stage had other settings, or one that is not finished has fewer steps than it has done.
    pub fn of(staged: &Staged, resume: bool) -> Result<Self> {
        if !resume {
            return Ok(Self { finished: vec![None; staged.stages.len()] });
        }
        check_directories(staged)?;
        let of_stage = |(index, stage): (usize, &Stage)| {
            let last = index + 1 == staged.stages.len();
            // On a machine where the run did not begin, an adapter was handed over, and there is no configuration.
            let has = |file: &str| stage.config.output_dir.join(file).is_file();
            if last || !has("config.yaml") || !has(&format!("adapter/{}", peft::CONFIG)) {
                return check_length(stage).map(|()| None);
            }
            Ok(Some(Finished { date: finished(stage)?.data.chat_template_date }))
        };
        let finished = staged.stages.iter().enumerate().map(of_stage).collect::<Result<_>>()?;
        Ok(Self { finished })
    }

    /// The index of the first stage that is not finished.
    pub fn next(&self) -> usize {
        self.finished.iter().take_while(|finished| finished.is_some()).count()
    }

    /// What rank 0 finds, on every rank.
    ///
    /// # Errors
    /// As [`Before::of`], or if a rank has failed.
    pub fn on(ranks: &Ranks, staged: &Staged, resume: bool) -> Result<Self> {
        ranks.told(|| Self::of(staged, resume))
    }
}

/// Returns the stages with the shape of the adapter that the first one continues, as the configuration of the run notes it.
pub fn with_shape(staged: &Staged, base: &Base) -> Staged {
    let mut staged = staged.clone();
    if let Some(first) = staged.stages.first_mut()
        && first.config.lora.init_from.is_some()
    {
        // An adapter that cannot be read is refused by the stage that begins with it, unless that stage is finished.
        let shape = run::note_shape(&mut first.config, base);
        shape.unwrap_or_else(|error| log::debug!("the shape of lora.init_from is not noted: {error}"));
    }
    staged
}

/// Refuses to make a stage shorter than it is.
fn check_length(stage: &Stage) -> Result<()> {
    let Stage { name, config, .. } = stage;
    let Some(most) = config.train.max_steps else { return Ok(()) };
    let done = checkpoint::newest(&config.output_dir).0.map_or(0, |(_, state)| state.step);
    if done <= most {
        return Ok(());
    }
    Err(Error::Config(format!(
        "stage {name} is at step {done}, and train.max_steps is {most}: a run does not go back. Set it to {done} or more, or use \
         --overwrite to start over"
    )))
}

/// Reads the data of every stage that is not finished, and checks that its loss takes them, so that nothing is trained if a
/// later stage cannot begin.
///
/// # Errors
/// If something is missing or invalid.
pub fn planned(
    ranks: &Ranks,
    staged: &Staged,
    base: &Base,
    (before, resume): (&Before, bool),
) -> Result<Vec<Planned>> {
    check_stackable(staged, base)?;
    let mut planned: Vec<Planned> = Vec::new();
    let mut date = None;
    for (index, stage) in staged.stages.iter().enumerate() {
        let mut config = stage.config.clone();
        let (name, directory) = (stage.name.clone(), config.output_dir.clone());
        if let Some(finished) = before.finished.get(index).cloned().flatten() {
            date = date.or(finished.date);
            planned.push(Planned { name, directory, inputs: None });
            continue;
        }
        // All stages are of one day, also if one of them begins on another.
        if config.data.chat_template == staged.stages[0].config.data.chat_template {
            config.data.chat_template_date = config.data.chat_template_date.or_else(|| date.clone());
        }
        let place = |error| located(&name, error);
        let inputs = Inputs::read(config, base, resume).map_err(place)?;
        inputs.check().map_err(place)?;
        if index > 0 {
            let finished = planned.last().is_some_and(|before| before.inputs.is_none());
            let alone = alone(staged, index, &inputs.config, finished);
            run::foresee(ranks, alone, base, &inputs.examples).map_err(place)?;
        }
        date = date.or_else(|| inputs.config.data.chat_template_date.clone());
        planned.push(Planned { name, directory, inputs: Some(inputs) });
    }
    Ok(planned)
}

/// Writes the adapters of earlier stages that a stage begins with on the machines that do not see the run directory, at the
/// same paths. They were finished by rank 0.
///
/// # Errors
/// If an adapter cannot be read or written, or a rank has failed.
pub fn hand_over(ranks: &Ranks, staged: &Staged, config: &RunConfig) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let named = config.lora.init_from.iter().chain(&config.model.adapter);
    for path in named.filter(|path| path.starts_with(&staged.output_dir)) {
        let own = match ranks.is_first() {
            true => packed(path, &names(path)?)?,
            false => Vec::new(),
        };
        let bytes = ranks.broadcast(own)?;
        if !ranks.is_first() {
            unpack(&bytes, path)?;
        }
    }
    ranks.meet()
}

/// The names of the files of an adapter, sorted. Hidden files are of the system.
fn names(adapter: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(adapter).map_err(Error::read(adapter))? {
        let path = entry.map_err(Error::read(adapter))?.path();
        if path.is_file() {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}

/// Names the stage of an error about data, if the message does not name a file anyway.
fn located(stage: &str, error: Error) -> Error {
    match error {
        Error::Config(message) => Error::Config(format!("stage {stage}: {message}")),
        Error::Data(message) => Error::Data(format!("stage {stage}: {message}")),
        error => error,
    }
}

/// Checks that a finished stage had the settings that it has now, and returns those it had.
fn finished(stage: &Stage) -> Result<RunConfig> {
    let path = stage.config.output_dir.join("config.yaml");
    let text = fs::read_to_string(&path).map_err(Error::read(&path))?;
    let written = RunConfig::from_yaml(&text, &path.display().to_string(), &[])?;
    // What the program decided about a run that left it open is no change.
    let mut now = stage.config.clone();
    now.model.base.clone_from(&written.model.base);
    now.data.chat_template_date.clone_from(&written.data.chat_template_date);
    now.train.gradient_checkpointing = written.train.gradient_checkpointing;
    if now.lora.init_from.is_some() {
        run::adopt(&mut now.lora, &written.lora);
    }
    let length = |config: &RunConfig| (config.train.num_train_epochs, config.train.max_steps);
    if length(&written) != length(&now) {
        let steps = written.train.max_steps.map_or_else(|| "null".to_string(), |steps| steps.to_string());
        return Err(Error::Config(format!(
            "stage {} is finished, and a later stage begins with its adapter: its length must stay as it was. Set \
             train.num_train_epochs back to {} and train.max_steps to {steps}, or use --overwrite to start over",
            stage.name, written.train.num_train_epochs
        )));
    }
    now.compare_for_resume(&text).map_err(|error| located(&stage.name, error))?;
    Ok(written)
}

/// Checks that the directory holds these stages and no others.
fn check_directories(staged: &Staged) -> Result<()> {
    let held = run_dir::stages(&staged.output_dir);
    for (index, stage) in staged.stages.iter().enumerate() {
        let prefix = format!("{}-", index + 1);
        let names = held.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
        let is_other = |name: &Cow<str>| name.strip_prefix(&prefix).is_some_and(|rest| rest != stage.name);
        if let Some(other) = names.into_iter().find(is_other) {
            return Err(Error::Config(format!(
                "{} holds {other}, and stage {} is called {}; name it as before, or use --overwrite to start over",
                staged.output_dir.display(),
                index + 1,
                stage.name
            )));
        }
    }
    if staged.output_dir.join("checkpoints").exists() {
        return Err(Error::Config(format!(
            "{} holds a run without stages; choose another output_dir, or use --overwrite to start over",
            staged.output_dir.display()
        )));
    }
    Ok(())
}

/// Checks that the adapters of the stages can be stacked into one at the end.
fn check_stackable(staged: &Staged, base: &Base) -> Result<()> {
    let stacks = staged.stages.iter().skip(1).any(|stage| stage.begins == Begins::Stack);
    let first = staged.stages.first().and_then(|stage| stage.config.lora.init_from.as_ref());
    if let (true, Some(path)) = (stacks, first) {
        base.adapter(path, false)?.loras("a stacked stage")?;
    }
    Ok(())
}

/// Returns the configuration of stage `index`, which has become `config`, for an estimate of what it takes. Before the
/// stages before it are `finished` their adapters are not there: a new one of the same size stands for the one that it
/// continues.
pub fn alone(staged: &Staged, index: usize, config: &RunConfig, finished: bool) -> RunConfig {
    let mut alone = config.clone();
    if finished {
        return alone;
    }
    let first = &staged.stages[0].config;
    alone.lora.init_from.clone_from(&first.lora.init_from);
    alone.model.adapter.clone_from(&first.model.adapter);
    let continues = |stage: &&Stage| stage.begins == Begins::Continue;
    let before = staged.stages[1..=index].iter().rev().take_while(continues).count();
    let begun_by = &staged.stages[index - before].config.lora;
    if before > 0 {
        let (to, from) = (&mut alone.lora, begun_by);
        to.modules_to_save.clone_from(&from.modules_to_save);
        to.trainable_token_indices.clone_from(&from.trainable_token_indices);
        to.prefix_tuning.clone_from(&from.prefix_tuning);
        to.adapter_layers.clone_from(&from.adapter_layers);
    }
    if before > 0 && matches!(begun_by.init_lora_weights, InitLoraWeights::Pissa(_)) {
        // A finished PiSSA is a LoRA of twice the rank.
        alone.lora.r *= 2;
        alone.lora.rank_pattern.values_mut().for_each(|rank| *rank *= 2);
    }
    alone
}

/// Writes the adapter that the stages end with to `adapter/` of the whole run: the last one, with the adapters that it is
/// stacked on. Returns its path.
///
/// # Errors
/// If an adapter cannot be read or the result cannot be written.
pub fn conclude(staged: &Staged, base: &Base) -> Result<PathBuf> {
    let to = staged.output_dir.join("adapter");
    let (Some(first), Some(last)) = (staged.stages.first(), staged.stages.last()) else { return Ok(to) };
    let from = last.config.output_dir.join("adapter");
    let below = &last.config.model.adapter[first.config.model.adapter.len()..];
    if below.is_empty() {
        files::write_directory(&to, true, |new| copy(&from, new, &[]))?;
        return Ok(to);
    }
    let parts = below
        .iter()
        .chain(std::iter::once(&from))
        .map(|path| base.adapter(path, false))
        .collect::<Result<Vec<_>>>()?;
    let stacked = Adapters::stacked(&parts)?;
    // It holds the adapters of all stages; below it are those alone that the run began with.
    let mut trained_with = TrainedWith::read(&from)?;
    trained_with.frozen.truncate(first.config.model.adapter.len());
    let origin = run::origin(&last.config, base, &trained_with)?;
    let card = card_of_all(staged, (origin.base.as_str(), &trained_with), &from)?;
    files::write_directory(&to, true, |new| {
        copy(&from, new, &[peft::WEIGHTS, peft::CONFIG, CARD])?;
        card.iter().try_for_each(|card| files::write_bytes(&new.join(CARD), card.as_bytes()))?;
        peft::write(new, &stacked, &base.spec, 0.0, &origin)
    })?;
    Ok(to)
}

/// The card of the adapter that holds those of all stages, from that of the last one; `None` if that has none.
fn card_of_all(
    staged: &Staged,
    (base, trained_with): (&str, &TrainedWith),
    from: &Path,
) -> Result<Option<String>> {
    let path = from.join(CARD);
    let Some(last) = staged.stages.last().filter(|_| path.is_file()) else { return Ok(None) };
    let text = fs::read_to_string(&path).map_err(Error::read(&path))?;
    let names: Vec<&str> = staged.stages.iter().map(|stage| stage.name.as_str()).collect();
    companions::card_of_stages(&last.config, (base, trained_with), (&names[..], text.as_str())).map(Some)
}

/// Copies the files of an adapter: its weights and configuration, its card and its tokenizer; not those in `except`.
fn copy(from: &Path, to: &Path, except: &[&str]) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::read(from))? {
        let path = entry.map_err(Error::read(from))?.path();
        let name = path.file_name().filter(|name| !except.iter().any(|except| name == except));
        if let (true, Some(name)) = (path.is_file(), name) {
            let bytes = fs::read(&path).map_err(Error::read(&path))?;
            files::write_bytes(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}
