//! Training in a few lines.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use super::{Base, Examples, Pairs, Ready, Run, announce};
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::error::Result;
use crate::eval::preference::Evaluation;
use crate::model::config::LoraConfig;
use crate::objective::{Loss, Objective, ObjectiveConfig, Sigmoid};
use crate::report::{HeldOutFile, Jsonl, Reporter, SampleLog, Sink};
use crate::train::config::TrainConfig;
use crate::train::run_dir::{self, Opening, RunDir};

/// Trains an adapter for a base. Begin with [`Trainer::builder`].
#[derive(Debug)]
pub struct Trainer;

impl Trainer {
    /// A run over `pairs` with the defaults of `dpo-lora train`: the DPO loss with β 0.1, rank 16 on every linear module,
    /// one epoch, in the directory `runs/dpo`.
    pub fn builder<'a>(base: &'a Base, pairs: Pairs) -> TrainerBuilder<'a> {
        let config = RunConfig::new(base.pinned(), "memory");
        let examples = Examples {
            train: pairs.examples,
            eval: Dataset::default(),
            notes: pairs.notes,
            skipped: pairs.findings.skipped,
        };
        let opening = Opening::Fresh;
        TrainerBuilder { base, examples, config, opening, reporter: Reporter::new() }
    }
}

/// A run being described.
pub struct TrainerBuilder<'a> {
    base: &'a Base,
    examples: Examples,
    config: RunConfig,
    opening: Opening,
    reporter: Reporter,
}

/// What a run left.
#[derive(Debug)]
pub struct Trained {
    /// The PEFT directory of the adapter.
    pub adapter: PathBuf,
    /// The evaluation after the last step; `None` without held-out pairs.
    pub evaluation: Option<Evaluation>,
}

impl TrainerBuilder<'_> {
    /// Rank, scaling and modules of the adapter.
    #[must_use]
    pub fn lora(mut self, lora: LoraConfig) -> Self {
        self.config.lora = lora;
        self
    }

    /// The DPO loss with this β.
    #[must_use]
    pub fn dpo(self, beta: f64) -> Self {
        self.loss(Sigmoid { beta, ..Sigmoid::default() })
    }

    /// Another loss.
    #[must_use]
    pub fn loss(mut self, loss: impl Into<Loss>) -> Self {
        self.config.objective = ObjectiveConfig::from(&Objective::new(loss));
        self
    }

    /// Learning rate, batch size, epochs and all else that the `train` section of a configuration holds.
    #[must_use]
    pub fn training(mut self, train: TrainConfig) -> Self {
        self.config.train = train;
        self
    }

    /// Held-out pairs, evaluated before the first and after the last step.
    #[must_use]
    pub fn eval(mut self, pairs: Pairs) -> Self {
        self.examples.eval = pairs.examples;
        self
    }

    /// The seed of initialisation, shuffling and dropout.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// The run directory. A used one is refused unless the run is resumed or overwritten.
    #[must_use]
    pub fn output(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.output_dir = directory.into();
        self
    }

    /// Goes on from the newest checkpoint of the run directory, if there is one.
    #[must_use]
    pub fn resume(mut self) -> Self {
        self.opening = Opening::ResumeOrStart;
        self
    }

    /// Begins anew in a used run directory.
    #[must_use]
    pub fn overwrite(mut self) -> Self {
        self.opening = Opening::Overwrite;
        self
    }

    /// Adds another sink for the run's progress.
    #[must_use]
    pub fn report_to(mut self, sink: impl Sink + 'static) -> Self {
        self.reporter = self.reporter.with(sink);
        self
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if a setting is invalid or the run does not fit into memory;
    /// [`crate::error::Error::Diverged`] if the adapter became unusable.
    pub fn run(self) -> Result<Trained> {
        let Self { base, examples, config, opening, mut reporter } = self;
        config.validate()?;
        let tokenizer = base.tokenizer(config.data.chat_template.as_deref())?;
        let resuming = opening == Opening::ResumeOrStart;
        if !resuming {
            config.check_idle()?;
        }
        if opening == Opening::Overwrite {
            run_dir::check_overwritten(std::slice::from_ref(&config.output_dir), &config, &[])?;
        }
        let run = Run::new(config, base, tokenizer, examples)?;
        let directory = RunDir::open(&run.config.output_dir, opening)?;
        let course = run.course()?;
        let Ready { mut trainer, notes, .. } = run.ready(&directory, Arc::new(AtomicU8::new(0)), resuming)?;
        let metrics = directory.path().join("metrics.jsonl");
        let step = trainer.step();
        let jsonl = if step > 0 { Jsonl::resume(metrics, step)? } else { Jsonl::create(metrics)? };
        let samples = SampleLog::open(&directory.path().join("samples.jsonl"), step)?;
        let held_out = HeldOutFile::open(&directory.path().join("held_out.json"), step)?;
        reporter = reporter.with(jsonl).with(samples).with(held_out);
        notes.iter().for_each(|note| reporter.note(note));
        announce(&course, step, &mut reporter);
        trainer.run(&mut reporter)?;
        Ok(Trained { adapter: directory.path().join("adapter"), evaluation: trainer.evaluate()? })
    }
}
