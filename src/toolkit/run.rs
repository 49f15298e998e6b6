//! A run before its first step: its examples, its policies, and what it will need.

mod balance;
mod continued;
mod examples;
mod inputs;
mod on_device;
mod plan;
mod policy;
mod resumed;
mod rollout;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

pub(super) use self::continued::adopt;
pub use self::examples::Examples;
pub use self::inputs::Inputs;
pub use self::plan::Expected;
use self::policy::Start;
pub(crate) use self::policy::adapt_alike;
use super::{Base, TrainedWith, companions};
use crate::adapter::peft;
use crate::config::RunConfig;
use crate::data::findings::{MOST_SKIPPED, Skipped};
use crate::data::{ChatTokenizer, show};
use crate::error::{Error, Result};
use crate::files;
use crate::model::decoder::Decoder;
use crate::ranks::{ALONE, Ranks};
use crate::report::Reporter;
use crate::train::config::{Recompute, TrainConfig};
use crate::train::course::Course;
use crate::train::plan::Memory;
use crate::train::reference::{self, ReferenceCache};
use crate::train::run_dir::RunDir;
use crate::train::samples::{SamplePrompts, Samples};
use crate::train::trainer::{Identity, Setup, Trainer};
use crate::trainable::Policy;

/// Tokens of each part of the first record that are shown.
const FIRST_TOKENS: usize = 60;

/// A run that has passed every check and has not begun.
pub struct Run<'a> {
    /// Its configuration, with what was decided for it.
    pub config: RunConfig,
    base: &'a Base,
    tokenizer: ChatTokenizer,
    examples: Examples,
    decoder: Decoder,
    policy: Policy,
    on_device: Option<on_device::Fit>,
    ranks: Ranks,
}

/// A run before its next step.
pub struct Ready {
    /// It trains.
    pub trainer: Trainer,
    /// The resolved configuration.
    pub config: RunConfig,
    /// The tokenizer of its records.
    pub tokenizer: Arc<ChatTokenizer>,
    /// Notices about data and memory.
    pub notes: Vec<String>,
}

/// The peak memory that a run would take on the processor, from the sizes of its records alone: (packed rows, unpacked
/// tokens, scored tokens).
///
/// # Errors
/// If the adapter does not fit the base.
pub fn expected_memory(
    config: &RunConfig,
    base: &Base,
    sizes: impl Iterator<Item = (usize, usize, usize)>,
) -> Result<Memory> {
    let trained = Start::of(config, base)?.trained();
    Ok(plan::memory_for(config, base, trained, sizes))
}

/// Gives a configuration the shape of the adapter that its run continues, if there is one.
///
/// # Errors
/// If the adapter cannot be read or does not fit the base.
pub(super) fn note_shape(config: &mut RunConfig, base: &Base) -> Result<()> {
    Start::of(config, base)?.note_shape(config, base);
    Ok(())
}

/// Checks for a later stage what [`Run::new`] checks when it begins: that the device trains it, and that it fits into
/// memory. `config` describes an adapter that is not there yet.
///
/// # Errors
/// If the device does not train it, the adapter does not fit the base, or memory does not suffice.
pub(super) fn foresee(ranks: &Ranks, mut config: RunConfig, base: &Base, examples: &Examples) -> Result<()> {
    policy::check_device(&config, base)?;
    let start = Start::of(&config, base)?;
    if base.backend.is_some() {
        return config.train.check_device().map(drop);
    }
    plan::fit(&mut config, base, (start.trained(), ranks), examples).map(drop)
}

impl<'a> Run<'a> {
    /// Reads the data that the configuration names. With `resume`, a date that the template prints is that of the run.
    ///
    /// # Errors
    /// If something is missing or invalid, or the run does not fit into memory.
    pub fn read(config: RunConfig, base: &'a Base, resume: bool) -> Result<Self> {
        Self::of(Inputs::read(config, base, resume)?, base)
    }

    /// With data that are read already.
    ///
    /// # Errors
    /// As [`Run::new`].
    pub fn of(inputs: Inputs, base: &'a Base) -> Result<Self> {
        Self::on(&ALONE, inputs, base)
    }

    /// With data that are read already, as one of several processes that train together. The first one writes.
    ///
    /// # Errors
    /// As [`Run::new`].
    pub fn on(ranks: &Ranks, inputs: Inputs, base: &'a Base) -> Result<Self> {
        inputs.check()?;
        let Inputs { mut config, tokenizer, mut examples } = inputs;
        policy::check_device(&config, base)?;
        let start = Start::of(&config, base)?;
        start.note_shape(&mut config, base);
        if base.backend.is_none() {
            let note = plan::fit(&mut config, base, (start.trained(), ranks), &examples)?;
            examples.notes.extend(note);
        }
        let decoder = base.decoder()?;
        let (policy, note) = policy::policy(&config, base, (&decoder, &examples), start)?;
        examples.notes.extend(note);
        TrainedWith::warn_of_run(&config)?;
        let on_device = decoder
            .is_on_device()
            .then(|| on_device::fit(&config, &decoder, &policy, &examples))
            .transpose()?;
        Ok(Self { config, base, tokenizer, examples, decoder, policy, on_device, ranks: ranks.clone() })
    }

    /// Returns the first training record as the model sees it, shortened; `None` if there is none.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn first_record(&self, form: show::Form) -> Result<Option<String>> {
        let style = show::Style { form, most_tokens: Some(FIRST_TOKENS) };
        let first = self.examples.train.get(0)?;
        first.map(|example| show::example(&self.tokenizer, &example, style)).transpose()
    }

    /// With examples that are tokenized already.
    ///
    /// # Errors
    /// If the loss does not take the examples, the adapter does not fit the base, or the run does not fit into memory.
    pub fn new(
        config: RunConfig,
        base: &'a Base,
        tokenizer: ChatTokenizer,
        examples: Examples,
    ) -> Result<Self> {
        Self::of(Inputs { config, tokenizer, examples }, base)
    }

    /// What it would do, in words: `--dry-run`.
    ///
    /// # Errors
    /// If the objective is invalid.
    pub fn described(&self) -> Result<String> {
        plan::described(
            (&self.config, &self.ranks),
            self.base,
            (&self.decoder, &self.policy),
            &self.examples,
            self.on_device.as_ref(),
        )
    }

    /// What it will take, as numbers.
    ///
    /// # Errors
    /// If the objective is invalid.
    pub fn expected(&self) -> Result<Expected> {
        plan::expected(&self.config, self.base, &self.policy, &self.examples, self.on_device.as_ref())
    }

    /// Its steps and learning rates.
    ///
    /// # Errors
    /// If the objective is invalid.
    pub fn course(&self) -> Result<Course> {
        plan::course(&self.config, &self.examples, &self.policy.trained)
    }

    /// Returns the trainer at its first step, or with `resuming` at that of the newest valid checkpoint, and the
    /// notices to print. Writes the resolved configuration. `stop` becomes the number of a signal when the run should
    /// stop.
    ///
    /// # Errors
    /// If there is nothing to train, the objective does not take the records, the checkpoint belongs to another run, or a rank
    /// has failed.
    pub fn ready(mut self, directory: &RunDir, stop: Arc<AtomicU8>, resuming: bool) -> Result<Ready> {
        let asked = self.config.train.gradient_checkpointing;
        if let Some(found) = &self.on_device {
            self.config.train.gradient_checkpointing =
                if found.recompute { Recompute::On } else { Recompute::Off };
            if found.recompute && asked == Recompute::Auto {
                self.examples.notes.push(
                    "blocks are recomputed in the backward pass, because the run does not fit otherwise"
                        .into(),
                );
            }
        }
        let Self { config, base, tokenizer, examples, decoder, policy, ranks, .. } = self;
        let Examples { train, eval, mut notes, skipped } = examples;
        notes.extend(list_skipped(directory, &skipped)?);
        let fingerprint = base.fingerprint()?;
        let reference_policy = reference::policy(&fingerprint, &decoder, &policy);
        let weights = reference::weights(&fingerprint, &decoder, &policy);
        if let Some(directory) = config.train.reference_cache.directory("reference") {
            log::debug!("cache of reference log-probs: {}", directory.display());
        }
        let rollouts = rollout::source(&config, base)?;
        let (reference, damage) = reference_cache(&config.train, &reference_policy, rollouts.is_some());
        notes.extend(damage);
        let objective = config.objective.resolve()?;
        // Pairs whose tails are scored apart have entries of their own in the cache.
        if objective.needs().reference && !objective.needs().tails {
            let known = reference.knows(&train) + reference.knows(&eval);
            notes.extend(what_is_cached(known, train.len() + eval.len()));
        }
        let trained_with = TrainedWith::of_run(&config)?;
        let origin = origin(&config, base, &trained_with)?;
        let card =
            companions::card(&config, (origin.base.as_str(), &trained_with), &policy.trained, train.len())?;
        let companions = companions::tokenizer_files(base, &tokenizer, &config)?;
        let eos = base.eos(&tokenizer);
        let tokenizer = Arc::new(tokenizer);
        // A reward model writes no text.
        let wanted = match objective.needs().rewards {
            true => SamplePrompts::First(0),
            false => config.train.sample_prompts.clone(),
        };
        let samples = Samples::new(&wanted, (&train, &eval), tokenizer.clone(), eos)?;
        let setup = Setup {
            decoder,
            policy,
            train,
            eval,
            objective,
            config: config.train.clone(),
            watch: config.watch.clone(),
            dropout: config.lora.lora_dropout,
            seed: config.seed,
            rollouts,
            reference,
            origin,
            card,
            companions,
            samples: Some(samples),
            run: directory.path().to_path_buf(),
            identity: Identity { config: config.to_yaml()?, reference: reference_policy, weights },
            stop,
            ranks: ranks.clone(),
        };
        let mut trainer = Trainer::new(setup)?;
        if resuming {
            notes.extend(resumed::resume(&mut trainer, (&config, base), directory, &ranks)?);
        }
        if directory.is_ours() {
            files::write_bytes(&directory.path().join("config.yaml"), config.to_yaml()?.as_bytes())?;
        }
        Ok(Ready { trainer, config, tokenizer, notes })
    }
}

/// Tells what a run will do and, if it has not begun, what about that looks wrong.
pub fn announce(course: &Course, step: u64, reporter: &mut Reporter) {
    reporter.note(&course.to_string());
    if step == 0 {
        course.warnings().iter().for_each(|warning| reporter.warn(warning));
    }
}

/// What the adapter records about its base and its training.
pub(super) fn origin(config: &RunConfig, base: &Base, trained_with: &TrainedWith) -> Result<peft::Origin> {
    let mut origin = base.origin()?;
    origin.metadata.extend(trained_with.metadata()?);
    if let Some(name) = &config.model.base_name {
        (origin.base, origin.revision) = match name.split_once('@') {
            Some((name, commit)) => (name.into(), Some(commit.into())),
            None => (name.clone(), None),
        };
    }
    Ok(origin)
}

/// Writes the list of the records that were left out, if there are any; returns a notice.
///
/// # Errors
/// If the file cannot be written.
fn list_skipped(directory: &RunDir, skipped: &[Skipped]) -> Result<Option<String>> {
    let path = directory.path().join("skipped.jsonl");
    if !directory.is_ours() {
        return Ok(None);
    }
    if skipped.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::write(&path)(e)),
            _ => Ok(None),
        };
    }
    let mut lines = String::new();
    for record in skipped {
        lines += &serde_json::to_string(record).map_err(|e| Error::Data(e.to_string()))?;
        lines.push('\n');
    }
    files::write_bytes(&path, lines.as_bytes())?;
    let all = if skipped.len() >= MOST_SKIPPED { "the first of them" } else { "all of them" };
    Ok(Some(format!("{} lists the skipped records ({all})", path.display())))
}

/// Where reference log-probs are kept: nowhere on disk if the reference moves or the policy draws its completions.
fn reference_cache(config: &TrainConfig, policy: &str, draws: bool) -> (ReferenceCache, Option<String>) {
    match config.reference_cache.directory("reference").filter(|_| !config.sync_ref_model && !draws) {
        Some(directory) => ReferenceCache::in_file(directory.join(format!("{policy}.logps"))),
        None => (ReferenceCache::in_memory(), None),
    }
}

fn what_is_cached(known: usize, pairs: usize) -> Option<String> {
    match known {
        0 => None,
        _ if known == pairs => {
            Some("all reference log-probs are cached: no reference pass will be made".into())
        }
        _ => Some(format!(
            "reference log-probs of {known} of {pairs} pairs are cached; the others are computed when needed"
        )),
    }
}
