//! What follows from the settings of a training: the optimizer, the schedule, the number of steps.

use super::TrainConfig;
use crate::error::{Error, Problems, Result};
use crate::train::best::Criterion;
use crate::train::optimizer::OptimizerConfig;
use crate::train::schedule::{Options, Schedule};

impl TrainConfig {
    /// Returns the optimizer's settings.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            kind: self.optim,
            beta1: self.adam_beta1,
            beta2: self.adam_beta2,
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
            warmup_steps: self.warmup_steps,
            loraplus_lr_ratio: self.loraplus_lr_ratio.unwrap_or(1.0),
        }
    }

    /// Returns the number of moments that a device keeps for each parameter.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if devices do not have something that is asked for.
    pub fn check_device(&self) -> Result<usize> {
        if let Some(ratio) = self.loraplus_lr_ratio.filter(|ratio| *ratio != 1.0) {
            return Err(Error::Config(format!(
                "train.loraplus_lr_ratio is {ratio}, and a GPU has one learning rate for all parameters; set it to null, or \
                 model.device: cpu"
            )));
        }
        if let Some(alpha) = self.neftune_noise_alpha {
            return Err(Error::Config(format!(
                "train.neftune_noise_alpha is {alpha}, and noise is added on the processor only; set it to null, or \
                 model.device: cpu"
            )));
        }
        self.optim.moments_on_device()
    }

    /// Returns the number of pairs in an evaluation batch.
    pub fn evaluation_batch(&self) -> usize {
        self.per_device_eval_batch_size.unwrap_or(self.per_device_train_batch_size)
    }

    /// Returns the criterion that decides which evaluation is better.
    pub fn criterion(&self) -> Criterion {
        Criterion::new(&self.metric_for_best_model, self.greater_is_better)
    }

    /// The settings of the schedule, and what is wrong with them.
    pub(super) fn schedule_options(&self, problems: &mut Problems) -> Options {
        let (kind, written) = (self.lr_scheduler_type, &self.lr_scheduler_kwargs);
        Options::new(kind, written, self.learning_rate, problems)
    }

    /// Returns the learning rate schedule for a run of `total_steps` optimizer steps.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let warmup_steps = match self.warmup_steps {
            // As in `TrainingArguments.get_warmup_steps`: the ceiling of the f64 product, as Python computes it.
            0 => (total_steps as f64 * self.warmup_ratio).ceil() as u64,
            steps => steps,
        };
        Schedule {
            kind: self.lr_scheduler_type,
            // A valid configuration has no problems here.
            options: self.schedule_options(&mut Problems::default()),
            learning_rate: self.learning_rate,
            warmup_steps,
            total_steps,
        }
    }

    /// Returns the optimizer steps of a pass over so many records; the last one may have fewer.
    pub fn steps_per_epoch(&self, records: usize) -> u64 {
        let batches = records.div_ceil(self.per_device_train_batch_size.max(1));
        batches.div_ceil(self.gradient_accumulation_steps.max(1)) as u64
    }

    /// Returns the optimizer steps of a run over so many records, 1 at least.
    pub fn steps(&self, records: usize) -> u64 {
        let by_epochs = (self.num_train_epochs * self.steps_per_epoch(records) as f64).ceil() as u64;
        self.max_steps.unwrap_or(by_epochs).max(1)
    }

    /// Returns the norm to which gradients are clipped, or `None` if clipping is off.
    pub fn clip_norm(&self) -> Option<f64> {
        (self.max_grad_norm > 0.0).then_some(self.max_grad_norm)
    }
}
