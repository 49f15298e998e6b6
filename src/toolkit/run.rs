//! A run before its first step: its examples, its policies, and what it will need.

mod examples;
mod on_device;
mod plan;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

pub use self::examples::Examples;
use super::{Base, TrainedWith, dated};
use crate::adapter::peft;
use crate::config::RunConfig;
use crate::data::{ChatTokenizer, show};
use crate::error::{Error, Result};
use crate::files::{self, CacheChoice};
use crate::model::config::{LoraConfig, Reference};
use crate::model::decoder::Decoder;
use crate::model::initialisation::InitLoraWeights;
use crate::model::targets::LoraTargets;
use crate::ops::svd::Iterations;
use crate::train::checkpoint;
use crate::train::config::Recompute;
use crate::train::eva;
use crate::train::plan::Memory;
use crate::train::reference::{self, ReferenceCache};
use crate::train::run_dir::RunDir;
use crate::train::trainer::{Identity, Setup, Trainer};
use crate::trainable::{Adapter as Kind, Adapters, Dora, Frozen, Lora, Pissa, Policy};

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
}

/// A run before its next step.
pub struct Ready {
    /// It trains.
    pub trainer: Trainer,
    /// The resolved configuration.
    pub config: RunConfig,
    /// The tokenizer of its records.
    pub tokenizer: ChatTokenizer,
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
    let loras = modules(config, base)?;
    let parameters = loras.iter().map(Kind::parameters).sum();
    Ok(plan::memory_for(config, base, parameters, sizes))
}

impl<'a> Run<'a> {
    /// Reads the data that the configuration names. With `resume`, a date that the template prints is that of the run.
    ///
    /// # Errors
    /// If something is missing or invalid, or the run does not fit into memory.
    pub fn read(mut config: RunConfig, base: &'a Base, resume: bool) -> Result<Self> {
        config.model.base = base.pinned();
        let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
        let tokenizer = dated::tokenizer(tokenizer, &mut config, resume)?;
        let examples = Examples::read(&config, base, &tokenizer)?;
        Self::new(config, base, tokenizer, examples)
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
    /// If the adapter does not fit the base, or the run does not fit into memory.
    pub fn new(
        mut config: RunConfig,
        base: &'a Base,
        tokenizer: ChatTokenizer,
        mut examples: Examples,
    ) -> Result<Self> {
        check_device(&config, base)?;
        let loras = modules(&config, base)?;
        let to_train = loras.iter().map(Kind::parameters).sum();
        if base.backend.is_none() {
            let note = plan::fit(&mut config, base, to_train, &examples)?;
            examples.notes.extend(note);
        }
        let decoder = base.decoder()?;
        let (policy, note) = policy(&config, base, (&decoder, &examples), loras)?;
        examples.notes.extend(note);
        let on_device = decoder
            .is_on_device()
            .then(|| on_device::fit(&config, &decoder, &policy, &examples))
            .transpose()?;
        Ok(Self { config, base, tokenizer, examples, decoder, policy, on_device })
    }

    /// What it would do, in words: `--dry-run`.
    pub fn described(&self) -> String {
        plan::described(
            &self.config,
            self.base,
            (&self.decoder, &self.policy),
            &self.examples,
            self.on_device.as_ref(),
        )
    }

    /// Returns the trainer at its first step, or with `resuming` at that of the newest valid checkpoint, and the
    /// notices to print. Writes the resolved configuration. `stop` becomes the number of a signal when the run should
    /// stop.
    ///
    /// # Errors
    /// If there is nothing to train, the objective does not take the records, or the checkpoint belongs to another run.
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
        let Self { config, base, tokenizer, examples, decoder, policy, .. } = self;
        let Examples { train, eval, mut notes } = examples;
        let reference_policy = reference::policy(&base.fingerprint()?, &decoder, &policy);
        let (reference, damage) = reference_cache(&config.train.reference_cache, &reference_policy);
        notes.extend(damage);
        let objective = config.objective.resolve()?;
        if objective.needs().reference {
            let known = reference.knows(&train) + reference.knows(&eval);
            notes.extend(what_is_cached(known, train.len() + eval.len()));
        }
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
            reference,
            origin: peft::Origin {
                metadata: TrainedWith::configured(&config)?.metadata()?,
                ..base.origin()?
            },
            run: directory.path().to_path_buf(),
            identity: Identity { config: config.to_yaml()?, reference: reference_policy },
            stop,
        };
        let mut trainer = Trainer::new(setup)?;
        if resuming {
            notes.extend(resume(&mut trainer, &config, directory)?);
        }
        files::write_bytes(&directory.path().join("config.yaml"), config.to_yaml()?.as_bytes())?;
        Ok(Ready { trainer, config, tokenizer, notes })
    }
}

/// Continues from the newest valid checkpoint, if there is one; returns a notice.
///
/// # Errors
/// If the checkpoint belongs to another run.
fn resume(trainer: &mut Trainer, config: &RunConfig, directory: &RunDir) -> Result<Vec<String>> {
    let (found, mut notes) = checkpoint::newest(directory.path());
    let Some((path, state)) = found else {
        notes.push("there is no valid checkpoint yet; the run starts at step 0".into());
        return Ok(notes);
    };
    notes.extend(config.compare_for_resume(&state.config)?);
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

/// The modules to train; none if an adapter is gone on with.
fn modules(config: &RunConfig, base: &Base) -> Result<Vec<Kind>> {
    if config.lora.init_from.is_some() {
        return Ok(Vec::new());
    }
    let mut modules: Vec<String> = base.spec.linears().map(|linear| linear.module.clone()).collect();
    let head = base.spec.head.as_ref().map(|head| head.module.clone());
    modules.extend(head.clone());
    let targets = LoraTargets::resolve(&config.lora, &modules, head.as_deref())?;
    let loras = targets.0.iter().map(|target| {
        let linear = base.spec.linears().find(|linear| linear.module == target.module).ok_or_else(|| {
            Error::Config(format!(
                "lora.target_modules names {}, the language-model head, which cannot be adapted; remove it",
                target.module
            ))
        })?;
        let lora = Lora::new(linear, target.rank, target.alpha, target.scaling);
        Ok(kind(&config.lora, lora))
    });
    loras.collect()
}

/// The kind of adapter that the configuration names.
fn kind(config: &LoraConfig, lora: Lora) -> Kind {
    match config.init_lora_weights {
        InitLoraWeights::Kaiming if config.use_dora => Dora::new(lora).into(),
        InitLoraWeights::Kaiming | InitLoraWeights::Eva => lora.into(),
        InitLoraWeights::Pissa(iterations) => {
            let iterations = iterations.map_or(Iterations::UntilSettled, Iterations::Fixed);
            Pissa::new(lora, iterations).into()
        }
    }
}

/// Refuses what a device does not train, before anything is read.
fn check_device(config: &RunConfig, base: &Base) -> Result<()> {
    let init = config.lora.init_lora_weights;
    match init {
        InitLoraWeights::Pissa(_) | InitLoraWeights::Eva if base.backend.is_some() => {
            Err(Error::Config(format!(
                "lora.init_lora_weights is {init}, which is computed on the processor only; set model.device: cpu, or \
             lora.init_lora_weights: true"
            )))
        }
        InitLoraWeights::Pissa(_) | InitLoraWeights::Eva | InitLoraWeights::Kaiming => Ok(()),
    }
}

/// The frozen adapters and the one to train.
fn policy(
    config: &RunConfig,
    base: &Base,
    (decoder, examples): (&Decoder, &Examples),
    adapters: Vec<Kind>,
) -> Result<(Policy, Option<String>)> {
    let mut policy = Policy::default();
    for path in &config.model.adapter {
        policy.frozen.push(Frozen { adapters: base.adapter(path, false)?, reference_only: false });
    }
    let Some(path) = &config.lora.init_from else {
        let mut note = None;
        policy.trained = if config.lora.init_lora_weights == InitLoraWeights::Eva {
            let settings = eva::Settings {
                config: config.lora.eva_config.unwrap_or_default(),
                batch: config.train.per_device_train_batch_size,
                use_rslora: config.lora.use_rslora,
                seed: config.seed,
            };
            let loras: Vec<Lora> = adapters.iter().map(|adapter| adapter.low_rank().clone()).collect();
            let (found, said) = eva::initialised((decoder, &policy), &examples.train, &loras, &settings)?;
            note = Some(said);
            found
        } else {
            Adapters::initialised_on(adapters, config.seed, |module| decoder.linear(module))?
        };
        return Ok((policy, note));
    };
    policy.trained = base.adapter(path, false)?;
    if config.lora.reference == Reference::Init {
        policy.frozen.push(Frozen { adapters: policy.trained.copy(), reference_only: true });
    }
    Ok((policy, None))
}

fn reference_cache(choice: &CacheChoice, policy: &str) -> (ReferenceCache, Option<String>) {
    match choice.directory("reference") {
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
