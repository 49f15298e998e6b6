//! The training loop.

mod batching;
mod drawing;
mod evaluating;
mod keeping;
mod records;
mod sampling;
mod together;
mod watching;

pub use records::{check as check_records, check_pairs, check_pairs_for, check_positions};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use super::batches;
use super::card::Card;
use super::checkpoint::{self, State};
use super::config::{Recompute, TrainConfig};
use super::memory;
use super::optimizer::{Optimizer, OptimizerConfig};
use super::reference::ReferenceCache;
use super::rollouts::{self, RolloutSource};
use super::samples::Samples;
use super::schedule::Schedule;
use super::step::{self, Outcome, Settings};
use super::usable;
use super::watch::WatchConfig;
use crate::adapter::peft;
use crate::data::dataset::Entry;
use crate::data::{Dataset, Sampler};
use crate::device::linked::Linked;
use crate::error::{Error, Result};
use crate::eval::preference::Evaluation;
use crate::model::decoder::Decoder;
use crate::model::noise::Noise;
use crate::objective::{Metrics, Objective, OnPolicy};
use crate::ops::awake::awake;
use crate::ops::profile;
use crate::random::Stream;
use crate::ranks::Ranks;
use crate::report::{Event, Reporter};
use crate::trainable::Policy;

/// Training stops after this many consecutive steps without a usable gradient.
const MOST_SKIPPED: u32 = 3;

/// Everything a run trains with.
pub struct Setup {
    /// The base.
    pub decoder: Decoder,
    /// The frozen adapters and the trained one.
    pub policy: Policy,
    /// Training pairs.
    pub train: Dataset,
    /// Held-out pairs; may be empty.
    pub eval: Dataset,
    /// The loss.
    pub objective: Objective,
    /// The training settings.
    pub config: TrainConfig,
    /// The watchdogs' bounds.
    pub watch: WatchConfig,
    /// The value of `lora_dropout`.
    pub dropout: f64,
    /// The seed for shuffling and dropout.
    pub seed: u64,
    /// Where completions and their rewards come from, if the policy draws them.
    pub rollouts: Option<RolloutSource>,
    /// Where reference log-probs are kept.
    pub reference: ReferenceCache,
    /// What the adapter's metadata record about its base.
    pub origin: peft::Origin,
    /// What the adapter's model card says.
    pub card: Card,
    /// Names and contents of the files beside the adapter's matrices: the tokenizer's.
    pub companions: Vec<(String, Vec<u8>)>,
    /// The prompts that are completed to show what the run teaches.
    pub samples: Option<Samples>,
    /// The run directory.
    pub run: PathBuf,
    /// The resolved configuration and the fingerprint of the reference policy, for checkpoints.
    pub identity: Identity,
    /// Set to the number of a signal when the run should stop.
    pub stop: Arc<AtomicU8>,
    /// The processes that train together, of which the first writes and evaluates.
    pub ranks: Ranks,
}

/// What a checkpoint must have in common with the run that resumes it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The resolved configuration, as YAML.
    pub config: String,
    /// Fingerprint of the reference policy.
    pub reference: String,
    /// Fingerprint of its weights alone, which a checkpoint notes: [`super::reference::weights`].
    pub weights: String,
}

/// A run in progress.
pub struct Trainer {
    setup: Setup,
    optimizer: Optimizer,
    schedule: Schedule,
    sampler: Sampler,
    state: State,
    total_steps: u64,
    /// The step of the last checkpoint written.
    saved: Option<u64>,
    /// When it was written, or the run began.
    saved_at: Instant,
    /// A pair from the last step that had a usable gradient.
    probe: Option<usize>,
    /// The last evaluation and the step after which it was made.
    evaluated: Option<(u64, Evaluation)>,
    /// Whether completions could not be drawn or rewarded: then the step has changed nothing.
    undrawn: bool,
    /// The cards of all ranks, if NCCL connects them.
    cards: Option<Linked>,
}

impl Trainer {
    /// Creates a run at step 0.
    ///
    /// # Errors
    /// If there is nothing to train on, or the objective does not accept the records.
    pub fn new(mut setup: Setup) -> Result<Self> {
        if setup.policy.trained.values().is_empty() {
            return Err(Error::Train("there is no adapter to train".into()));
        }
        if setup.decoder.is_on_device() {
            setup.config.check_device()?;
            if setup.objective.needs().alignment {
                return Err(Error::Config(
                    "objective.use_weighting is computed on the processor only; set model.device: cpu".into(),
                ));
            }
        }
        let needs = setup.objective.needs();
        let has_values = matches!(setup.objective.on_policy(), Some(OnPolicy::Proximal(_)));
        if (needs.rewards || has_values) && setup.policy.trained.score().is_none() {
            return Err(Error::Train("a reward model and PPO need an adapter with a scalar head".into()));
        }
        let drawing = setup.rollouts.as_ref().map(|source| &source.drawing);
        records::check((&setup.train, &setup.eval), needs, drawing.is_some())?;
        records::check_positions((&setup.train, &setup.eval), needs, setup.decoder.spec().max_positions)?;
        let pace = rollouts::paced(&setup.config, drawing, &setup.objective)?;
        let config = &pace;
        batches::check(config, needs)?;
        let seed = config.shuffle.then_some(setup.seed);
        let mut sampler = Sampler::new(setup.train.len(), config.per_device_train_batch_size, seed)?;
        if config.group_by_length {
            sampler = sampler.grouped_by_length(setup.train.entries().map(Entry::packed).collect());
        }
        let total_steps = config.steps(setup.train.len());
        let schedule = config.schedule(total_steps);
        let optimizer = OptimizerConfig { warmup_steps: schedule.warmup_steps, ..config.optimizer() };
        let optimizer = Optimizer::new(&optimizer, setup.policy.trained.store_mut());
        let data = setup.train.fingerprint();
        let Identity { config, weights: reference, .. } = setup.identity.clone();
        let (held_out, ranks) = (setup.eval.fingerprint(), setup.ranks.size());
        let state = State { config, reference, data, held_out, ranks, ..State::default() };
        let (saved, probe, evaluated, cards) = (None, None, None, None);
        Ok(Self {
            setup,
            optimizer,
            schedule,
            sampler,
            state,
            total_steps,
            saved,
            saved_at: Instant::now(),
            probe,
            evaluated,
            undrawn: false,
            cards,
        })
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// If it belongs to other data, another reference policy or another adapter.
    pub fn restore(&mut self, path: &Path, found: State) -> Result<()> {
        let mut differences = Vec::new();
        if found.data != self.state.data {
            differences.push("the training pairs (or how they are tokenized or truncated)");
        }
        if found.reference != self.state.reference {
            differences.push("the base, its storage type, its frozen adapters, or the compute device");
        }
        if !differences.is_empty() {
            return Err(Error::Config(format!(
                "{} cannot be resumed; what changed since: {}. --overwrite starts over",
                path.display(),
                differences.join("; ")
            )));
        }
        let Setup { decoder, policy, .. } = &mut self.setup;
        checkpoint::restore(path, &found, decoder.spec(), policy, &mut self.optimizer)?;
        self.sampler = self.sampler.clone().resume(found.sampler)?;
        let State { config, reference, held_out, .. } = std::mem::take(&mut self.state);
        self.state = State { config, reference, held_out, ..found };
        Ok(())
    }

    /// Whether a checkpoint was evaluated on other records than the run will be.
    pub fn evaluates_others(&self, found: &State) -> bool {
        !found.held_out.is_empty() && found.held_out != self.state.held_out
    }

    /// Returns the number of steps completed.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Returns the number of steps in the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Returns the base.
    pub fn decoder(&self) -> &Decoder {
        &self.setup.decoder
    }

    /// Returns the adapters, one of which is trained. If a device trains it, its parameters are those of the last
    /// checkpoint.
    pub fn policy(&self) -> &Policy {
        &self.setup.policy
    }

    /// Returns the reference log-probs computed so far.
    pub fn reference(&self) -> &ReferenceCache {
        &self.setup.reference
    }

    /// Returns the share of held-out pairs whose chosen completion had the greater log-prob (or reward, by a reward model)
    /// when the run began, or `None` if there were no pairs.
    pub fn initial_accuracy(&self) -> Option<f64> {
        self.state.initial_accuracy
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// If a step fails for good, a checkpoint cannot be written (after the last one failed, `adapter/` is written all the same), or
    /// the run was interrupted (after writing a checkpoint).
    pub fn run(&mut self, reporter: &mut Reporter) -> Result<()> {
        self.agree()?;
        self.link(reporter)?;
        reporter.record(&Event::Start { step: self.state.step, total_steps: self.total_steps });
        self.evaluate_before(reporter)?;
        if self.state.step == 0 {
            self.sample(0, reporter);
        }
        let mut cold = true;
        // A run that has stopped early is over, also if it is resumed.
        let was_stopped = self.stops_early();
        let (mut stopped, mut unsaved) = (was_stopped, None);
        while self.state.step < self.total_steps && !stopped {
            self.one_step(reporter)?;
            if std::mem::take(&mut cold) && self.state.step < self.total_steps {
                // The first step reads the weights and touches every buffer for the first time, so it is not profiled.
                profile::restart();
                if let (true, Some(device)) = (profile::is_enabled(), self.setup.decoder.backend()) {
                    device.profile(true);
                }
            }
            let done = self.state.step;
            let due = |every: Option<u64>| every.is_some_and(|n| done.is_multiple_of(n.max(1)));
            let last = done == self.total_steps;
            if due(self.setup.config.eval_steps) || last {
                self.evaluation(reporter)?;
            }
            let signal;
            (signal, stopped) = self.agreed(self.stops_early())?;
            let over = stopped || last;
            if over {
                unsaved = self.save_last(reporter)?;
            } else if signal != 0 {
                self.save(reporter)?;
            } else if due(self.setup.config.save_steps) {
                self.save_by_steps(reporter)?;
            } else {
                self.save_by_time(reporter);
            }
            let signal = signal.max(self.signal_while_saving());
            if due(self.setup.config.sample_steps) && signal == 0 && !over {
                self.sample(done, reporter);
            }
            if signal != 0 && !over {
                reporter.record(&Event::End { interrupted: true });
                return Err(self.interrupted(signal));
            }
        }
        if stopped && self.state.step < self.total_steps {
            reporter.note(&self.stopped_early(was_stopped));
        }
        reporter.record(&Event::End { interrupted: false });
        self.finish(reporter)?;
        unsaved.map_or(Ok(()), |error| Err(self.without_checkpoint(&error)))
    }

    fn one_step(&mut self, reporter: &mut Reporter) -> Result<()> {
        let cards = self.cards.take();
        let Setup { config, objective, dropout, seed, .. } = &self.setup;
        let (step, ranks) = (self.state.step, self.setup.ranks.clone());
        let learning_rate = self.schedule.lr(step);
        let objective = objective.at(step as f64 / (self.total_steps - 1).max(1) as f64)?.into_owned();
        let noise = config
            .neftune_noise_alpha
            .map(|alpha| Noise { alpha, stream: Stream::new(*seed, "neftune").child(step) });
        let settings = Settings {
            objective: &objective,
            learning_rate,
            clip_norm: config.clip_norm(),
            dropout: *dropout,
            stream: Stream::new(*seed, "dropout").child(step),
            recompute: config.gradient_checkpointing == Recompute::On,
            noise,
            ranks: &ranks,
            cards: cards.as_ref(),
        };
        let made = match objective.on_policy() {
            Some(loss) => self.drawn_step(loss, &settings).map(|outcome| (outcome, None)),
            None => self.given_step(&settings),
        };
        self.cards = cards;
        let (outcome, probe) = made.map_err(|error| self.kept_before(error, reporter))?;
        self.state.step += 1;
        self.state.sampler = self.sampler.state();
        self.state.optimizer_steps = self.optimizer.steps();
        if outcome.is_usable() {
            self.probe = probe;
            if !outcome.finite {
                let Setup { decoder, policy, .. } = &mut self.setup;
                decoder.fetch(policy)?;
                let defect = usable::parameters(&policy.trained);
                return Err(self.diverged(&defect.unwrap_or_else(|| "a parameter overflows".into())));
            }
        }
        self.move_reference()?;
        self.account(&outcome, learning_rate, reporter)
    }

    /// Runs one step on given completions, or on pairs of drawn ones. Returns also the index of the first record.
    fn given_step(&mut self, settings: &Settings) -> Result<(Outcome, Option<usize>)> {
        let mut metrics = Metrics::default();
        let (batches, probe) = self.next_batches(&mut metrics)?;
        let Setup { decoder, policy, reference, .. } = &mut self.setup;
        let optimizer = &mut self.optimizer;
        // A device computes by itself, and ranks wait for each other.
        let asleep = decoder.is_on_device() || !settings.ranks.is_alone();
        let mut work = || step::run(decoder, policy, optimizer, reference, &batches, settings);
        let mut outcome = profile::step(|| if asleep { work() } else { awake(work) })?;
        outcome.metrics.merge(&metrics);
        Ok((outcome, probe))
    }

    fn account(&mut self, outcome: &Outcome, learning_rate: f64, reporter: &mut Reporter) -> Result<()> {
        let step = self.state.step;
        match &outcome.skipped {
            None => {
                self.state.skipped_in_a_row = 0;
                self.state.window.add(outcome);
                let warnings = self.watched(outcome);
                warnings.iter().for_each(|warning| reporter.warn(&format!("step {step}: {warning}")));
            }
            Some(why) => {
                self.state.skipped_in_a_row += 1;
                reporter.warn(&format!("step {step} is skipped: {why}"));
                if self.state.skipped_in_a_row >= MOST_SKIPPED {
                    self.save(reporter)?;
                    // Not before rank 0 has written it: the error ends all ranks.
                    self.setup.ranks.meet()?;
                    return Err(self.nothing_learned());
                }
            }
        }
        reporter.record(&Event::Progress {
            step,
            loss: outcome.metrics.loss().unwrap_or(f64::NAN),
            accuracy: outcome.metrics.accuracy(),
            tokens_per_second: outcome.tokens as f64 / outcome.seconds.max(1e-9),
        });
        let every = self.setup.config.logging_steps.max(1);
        if (step.is_multiple_of(every) || step == self.total_steps) && !self.state.window.is_empty() {
            let mut values = std::mem::take(&mut self.state.window).values(learning_rate);
            values.extend(memory::in_use());
            reporter.record(&Event::Metrics { step, epoch: self.sampler.epoch(), values: &values });
        }
        Ok(())
    }
}
