//! `dpo-lora train`.

mod on_device;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use super::base::{self, Base};
use super::samples::{Drawn, Samples};
use super::{dated, embedded, print, say};
use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::data::{ChatTokenizer, EvalSource, Example, Record, hold_out};
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::Reference;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::model::targets::LoraTargets;
use crate::ops::profile;
use crate::report::{Console, Jsonl, Reporter, TensorBoard, Verbosity};
use crate::train::checkpoint;
use crate::train::config::{Recompute, ReferenceCache as CacheChoice};
use crate::train::reference::{self, ReferenceCache};
use crate::train::run_dir::{self, Opening, RunDir};
use crate::train::trainer::{Identity, Setup, Trainer};
use crate::trainable::{Adapters, Frozen, Lora, Policy};

/// Prompts of the quickstart that are completed before and after, and how many of them are shown.
const SAMPLED: usize = 40;
const SHOWN: usize = 3;

pub(super) fn run(args: &TrainArgs, quiet: bool) -> Result<()> {
    let mut config = configure(args)?;
    base::set_threads(config.train.threads)?;
    let (dtype, device) = (config.model.dtype, config.model.device);
    let base =
        Base::open_with(&config.model.base, dtype, device, args.force)?.in_4bit(config.model.load_in_4bit)?;
    config.model.base = base.pinned();
    let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
    let tokenizer = dated::tokenizer(tokenizer, &mut config, args.resume)?;
    let mut pairs = pairs(&config, &base, &tokenizer)?;
    let loras = modules(&config, &base)?;
    let to_train = loras.iter().map(|lora| lora.rank * (lora.inputs + lora.outputs)).sum();
    if base.backend.is_none() {
        let note = plan::fit(&mut config, &base, to_train, &pairs)?;
        pairs.notes.extend(note);
    }
    let (decoder, policy) = (base.decoder()?, policy(&config, &base, loras)?);
    let on_device =
        decoder.is_on_device().then(|| on_device::fit(&config, &decoder, &policy, &pairs)).transpose()?;
    if args.dry_run {
        say(&plan::described(&config, &base, (&decoder, &policy), &pairs, on_device.as_ref()));
        return Ok(());
    }
    let asked = config.train.gradient_checkpointing;
    if let Some(found) = &on_device {
        config.train.gradient_checkpointing = if found.recompute { Recompute::On } else { Recompute::Off };
        if found.recompute && asked == Recompute::Auto {
            pairs.notes.push(
                "blocks are computed again in the backward pass: the run does not fit otherwise".into(),
            );
        }
    }
    let opening = match (args.resume, args.overwrite) {
        (true, _) => Opening::Resume,
        (_, true) => Opening::Overwrite,
        _ => Opening::Fresh,
    };
    let run = RunDir::open(&config.output_dir, opening)?;
    let stop = Arc::new(AtomicU8::new(0));
    super::signals::watch(&stop)?;

    let (setup, notes) = setup(&config, &base, (decoder, policy), pairs, &run, stop)?;
    let mut trainer = Trainer::new(setup)?;
    let resumed = if args.resume { resume(&mut trainer, &config, &run)? } else { Vec::new() };
    let yaml = config.to_yaml()?;
    files::write_bytes(&run.path().join("config.yaml"), yaml.as_bytes())?;
    let mut reporter = reporter(&run, trainer.step(), quiet)?;
    notes.iter().chain(&resumed).for_each(|note| reporter.note(note));
    describe(&trainer, &mut reporter);

    let samples =
        args.config.is_none().then(|| Samples::embedded(SAMPLED, base.eos(&tokenizer))).transpose()?;
    // Of the reference, which is also right where the run goes on from a checkpoint.
    let before = trainer.reference_accuracy()?;
    let drawn_before = samples
        .as_ref()
        .map(|s| s.draw(trainer.decoder(), &tokenizer, (trainer.policy(), Pass::Reference)))
        .transpose()?;
    profile::enable(args.profile);
    if let (true, Some(device)) = (args.profile, trainer.decoder().backend()) {
        device.profile(true);
    }
    let start = Instant::now();
    trainer.run(&mut reporter)?;
    let seconds = start.elapsed().as_secs_f64();
    if let (true, Some(device)) = (args.profile, trainer.decoder().backend()) {
        say(&crate::device::profile::table(&device.times()?, profile::seconds()));
        device.profile(false);
    } else if args.profile {
        let (seconds, entries) = (profile::seconds(), profile::take());
        let peak = profile::peak(trainer.decoder().head().precision());
        say(&profile::table(&entries, seconds, peak));
    }
    profile::enable(false);
    let after = trainer.evaluate()?.map(|found| found.logp_accuracy);

    if let (Some(samples), Some(before)) = (&samples, drawn_before) {
        let after = samples.draw(trainer.decoder(), &tokenizer, (trainer.policy(), Pass::Policy))?;
        print(compare(samples, &before, &after).as_bytes())?;
    }
    if let (Some(before), Some(after)) = (before, after) {
        print(
            format!("held-out accuracy: before {:.1} %, after {:.1} %\n", 100.0 * before, 100.0 * after)
                .as_bytes(),
        )?;
    }
    if !quiet {
        let passes = reference_passes(trainer.reference());
        say(&format!(
            "trained in {seconds:.1} s; {passes}; adapter: {}",
            run.path().join("adapter").display()
        ));
    }
    Ok(())
}

/// The configuration: a file, or the embedded quickstart in a directory that is not used yet.
fn configure(args: &TrainArgs) -> Result<RunConfig> {
    let config = match &args.config {
        Some(path) => RunConfig::from_file(path, &args.overrides)?,
        None => RunConfig::from_yaml(embedded::QUICKSTART, "the embedded quickstart", &args.overrides)?,
    };
    let named = args.overrides.iter().any(|o| o.trim_start().starts_with("output_dir"));
    if args.config.is_none() && !named && !args.resume && !args.overwrite {
        let output_dir = run_dir::numbered(&config.output_dir);
        return Ok(RunConfig { output_dir, ..config });
    }
    Ok(config)
}

/// Training and held-out examples, and what there is to say of them.
struct Pairs {
    train: Vec<Example>,
    eval: Vec<Example>,
    notes: Vec<String>,
}

fn pairs(config: &RunConfig, base: &Base, tokenizer: &ChatTokenizer) -> Result<Pairs> {
    let records = base::read_records(&config.data.train)?;
    let (train, eval): (Vec<Record>, Vec<Record>) = match &config.data.eval {
        None => (records, Vec::new()),
        Some(EvalSource::Sources(sources)) => (records, base::read_records(sources)?),
        Some(EvalSource::Fraction(fraction)) => hold_out(records, *fraction, config.seed)?,
    };
    let truncation = config.data.truncation();
    let train = base::tokenize_for(&base.spec, tokenizer, &train, &truncation)?;
    let mut notes = train.notes;
    let eval = if eval.is_empty() {
        Vec::new()
    } else {
        let eval = base::tokenize_for(&base.spec, tokenizer, &eval, &truncation)?;
        notes.extend(eval.notes.into_iter().map(|note| format!("held out: {note}")));
        eval.examples
    };
    Ok(Pairs { train: train.examples, eval, notes })
}

/// The modules to train; none if an adapter is gone on with.
fn modules(config: &RunConfig, base: &Base) -> Result<Vec<Lora>> {
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
                "lora.target_modules names {}, the language-model head, which cannot be adapted; take it out",
                target.module
            ))
        })?;
        Ok(Lora::new(linear, target.rank, target.alpha, target.scaling))
    });
    loras.collect()
}

/// The frozen adapters and the one to train.
fn policy(config: &RunConfig, base: &Base, loras: Vec<Lora>) -> Result<Policy> {
    let mut policy = Policy::default();
    for path in &config.model.adapter {
        policy.frozen.push(Frozen { adapters: base.adapter(path, false)?, reference_only: false });
    }
    let Some(path) = &config.lora.init_from else {
        policy.trained = Adapters::initialised(loras, config.seed)?;
        return Ok(policy);
    };
    policy.trained = base.adapter(path, false)?;
    if config.lora.reference == Reference::Init {
        policy.frozen.push(Frozen { adapters: policy.trained.copy(), reference_only: true });
    }
    Ok(policy)
}

fn setup(
    config: &RunConfig,
    base: &Base,
    (decoder, policy): (Decoder, Policy),
    pairs: Pairs,
    run: &RunDir,
    stop: Arc<AtomicU8>,
) -> Result<(Setup, Vec<String>)> {
    let Pairs { train, eval, mut notes } = pairs;
    let fingerprint = base.fingerprint()?;
    let reference_policy = reference::policy(&fingerprint, &decoder, &policy);
    let (reference, damage) = reference_cache(&config.train.reference_cache, &reference_policy);
    notes.extend(damage);
    notes.extend(what_is_cached(reference.knows(&train) + reference.knows(&eval), train.len() + eval.len()));
    let setup = Setup {
        decoder,
        policy,
        train,
        eval,
        objective: config.objective.clone(),
        config: config.train.clone(),
        watch: config.watch.clone(),
        dropout: config.lora.lora_dropout,
        seed: config.seed,
        reference,
        origin: base.origin()?,
        run: run.path().to_path_buf(),
        identity: Identity { config: config.to_yaml()?, reference: reference_policy },
        stop,
    };
    Ok((setup, notes))
}

fn reference_cache(choice: &CacheChoice, policy: &str) -> (ReferenceCache, Option<String>) {
    let directory: Option<PathBuf> = match choice {
        CacheChoice::Off => None,
        CacheChoice::Auto => files::cache_directory().map(|cache| cache.join("reference")),
        CacheChoice::Dir(directory) => Some(directory.clone()),
    };
    match directory {
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
            "reference log-probs of {known} of {pairs} pairs are cached; the others are computed when they are met"
        )),
    }
}

/// What the run had from the cache, once it is over.
fn reference_passes(reference: &ReferenceCache) -> String {
    match reference.computed {
        0 => "no reference pass was made".into(),
        computed => format!("reference log-probs of {computed} pairs were computed"),
    }
}

/// Goes on from the newest valid checkpoint, if there is one; says what it did.
fn resume(trainer: &mut Trainer, config: &RunConfig, run: &RunDir) -> Result<Vec<String>> {
    let (found, mut notes) = checkpoint::newest(run.path());
    match found {
        None => notes.push("there is no valid checkpoint yet; the run starts at step 0".into()),
        Some((path, state)) => {
            notes.extend(config.compare_for_resume(&state.config)?);
            trainer.restore(&path, state)?;
            notes.push(format!("resumed from {}", path.display()));
            let (done, all) = (trainer.step(), trainer.total_steps());
            if done >= all {
                notes.push(format!(
                    "it stands at step {done} of {all}: nothing is left to train; train.max_steps above {done} goes on"
                ));
            }
        }
    }
    Ok(notes)
}

fn reporter(run: &RunDir, step: u64, quiet: bool) -> Result<Reporter> {
    let verbosity = if quiet { Verbosity::Quiet } else { Verbosity::Normal };
    let metrics = run.path().join("metrics.jsonl");
    let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
    Ok(Reporter::new().with(Console::stderr(verbosity)).with(jsonl).with(TensorBoard::create(run.path())?))
}

fn describe(trainer: &Trainer, reporter: &mut Reporter) {
    let decoder = trainer.decoder();
    let parameters = trainer.policy().trained.values().len();
    let on = decoder.device_description().map_or_else(String::new, |(device, kind)| {
        format!(" on {} ({}), {kind} activations", device.name, device.versions)
    });
    reporter.note(&format!(
        "{} base, {} layers, {}{on}; {parameters} trained parameters; {} steps",
        decoder.spec().model_type,
        decoder.spec().layers.len(),
        decoder.storage(),
        trainer.total_steps()
    ));
    if decoder.device_description().is_some_and(|(_, kind)| kind == "f32") {
        reporter.note(
            "the GPU computes these weights in f32, which is several times slower than bf16; model.dtype: bf16 rounds them",
        );
    }
}

/// Completions side by side.
fn compare(samples: &Samples, before: &Drawn, after: &Drawn) -> String {
    let mut text = String::from("\nsamples at temperature 1, from held-out prompts:\n");
    let shown = samples.prompts().iter().zip(&before.texts).zip(&after.texts).take(SHOWN);
    for ((prompt, before), after) in shown {
        text.push_str(&format!("\n> {prompt}\n  before:{}\n  after: {}\n", spaced(before), spaced(after)));
    }
    text.push_str(&format!(
        "\nfavourable words among the judging ones, {} completions: before {:.0} %, after {:.0} %\n",
        samples.prompts().len(),
        100.0 * before.reward,
        100.0 * after.reward
    ));
    text
}

/// A completion with one space before it.
fn spaced(text: &str) -> String {
    format!(" {}", text.trim())
}
