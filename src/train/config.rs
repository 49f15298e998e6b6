//! The `train` section of a run's configuration.

mod checks;
mod derived;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::optimizer::OptimizerKind;
use super::samples::SamplePrompts;
use super::schedule::ScheduleKind;
use crate::error::{Problems, Result, nearest};
use crate::eval::preference::Evaluation;
use crate::files::CacheChoice;
use crate::report::TrackerName;

/// With more threads than this, a process spends its time starting them.
pub const MOST_THREADS: usize = 1024;

/// The default of `save_minutes`.
const SAVE_MINUTES: f64 = 10.0;

/// The default of `rank_timeout`, seconds. With the time to tell the others, all ranks end within 30 s.
pub const RANK_TIMEOUT: f64 = 25.0;

/// The training settings. Keys are those of transformers' `TrainingArguments` where it has an equivalent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the data; may be a fraction.
    pub num_train_epochs: f64,
    /// Optimizer steps; overrides `num_train_epochs` and repeats the data as needed.
    pub max_steps: Option<u64>,
    /// Pairs per micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches accumulated into one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The shape of the learning rate schedule.
    pub lr_scheduler_type: ScheduleKind,
    /// Settings of that shape, under transformers' names; see [`super::schedule::Options`].
    pub lr_scheduler_kwargs: BTreeMap<String, serde_yaml::Value>,
    /// Warm-up steps, from learning rate 0 to the peak.
    #[serde(deserialize_with = "whole_steps")]
    pub warmup_steps: u64,
    /// Warm-up steps as a share of all steps, rounded up.
    pub warmup_ratio: f64,
    /// The update rule.
    pub optim: OptimizerKind,
    /// AdamW's decay rate of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay rate of the second moment.
    pub adam_beta2: f64,
    /// AdamW's term added to the denominator.
    pub adam_epsilon: f64,
    /// LoRA+ (Hayou et al. 2024, arXiv 2402.12354): the learning rate of every B is this many times `learning_rate`;
    /// null: the same.
    pub loraplus_lr_ratio: Option<f64>,
    /// Weight decay, applied to every A and B (neither is a bias or a norm, which transformers would exclude).
    pub weight_decay: f64,
    /// The maximum gradient norm, to which gradients are clipped; 0 disables clipping.
    pub max_grad_norm: f64,
    /// Whether the pairs are reshuffled in every epoch.
    pub shuffle: bool,
    /// Pairs per evaluation batch; null: as in training.
    pub per_device_eval_batch_size: Option<usize>,
    /// The maximum number of packed tokens in a micro-batch; null: no limit.
    pub max_tokens_per_batch: Option<usize>,
    /// Whether pairs of similar length are batched together, so that batches differ less in cost and memory.
    pub group_by_length: bool,
    /// Recompute each block in the backward pass instead of keeping its activations.
    pub gradient_checkpointing: Recompute,
    /// Where reference log-probabilities are kept.
    pub reference_cache: CacheChoice,
    /// Number of threads; null: all cores.
    pub threads: Option<usize>,
    /// Seconds without a sign of life after which another rank is given up and the run ends.
    pub rank_timeout: f64,
    /// Steps between log lines.
    pub logging_steps: u64,
    /// Steps between evaluations; null: at the end only.
    pub eval_steps: Option<u64>,
    /// Steps between checkpoints; null: no checkpoints by steps.
    pub save_steps: Option<u64>,
    /// Without `save_steps`: minutes since the last checkpoint after which a step is followed by one; null: none by time.
    pub save_minutes: Option<f64>,
    /// The maximum number of checkpoints to keep; null: all.
    pub save_total_limit: Option<usize>,
    /// Stop after this many evaluations without a better `metric_for_best_model`; null: never.
    pub early_stopping_patience: Option<usize>,
    /// Whether `adapter/` holds the best evaluated checkpoint rather than the last.
    pub load_best_model_at_end: bool,
    /// The evaluation metric that selects the best checkpoint, with or without `eval_`.
    pub metric_for_best_model: String,
    /// Whether a greater value is better; null: yes, unless the metric's name ends in `loss` or `kl`.
    pub greater_is_better: Option<bool>,
    /// Whether the reference moves towards the policy (TR-DPO).
    pub sync_ref_model: bool,
    /// The share of the policy in the new reference.
    pub ref_model_mixup_alpha: f64,
    /// Steps between two moves of the reference.
    pub ref_model_sync_steps: u64,
    /// Strength of the noise that training adds to the embeddings (NEFTune); null: none.
    pub neftune_noise_alpha: Option<f64>,
    /// Where the figures of the run are sent besides its directory, which always has TensorBoard's.
    #[serde(deserialize_with = "trackers")]
    pub report_to: Vec<TrackerName>,
    /// The name of the run there; null: that of its directory.
    pub run_name: Option<String>,
    /// The prompts that are completed before and after the run: so many held-out ones, or these texts.
    pub sample_prompts: SamplePrompts,
    /// Steps between further completions of these prompts; null: before and after only.
    pub sample_steps: Option<u64>,
}

/// Whether blocks are recomputed in the backward pass: less memory, more time, bit-identical results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Recompute {
    /// Only if the run would not fit in memory otherwise.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// [`Recompute`] in its serialized form: `true`, `false` or `auto`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Decided(bool),
    Word(String),
}

impl TryFrom<Written> for Recompute {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Decided(true) => Ok(Self::On),
            Written::Decided(false) => Ok(Self::Off),
            Written::Word(word) if word == "auto" => Ok(Self::Auto),
            Written::Word(word) => Err(format!("{word:?} is neither auto, true nor false")),
        }
    }
}

impl From<Recompute> for Written {
    fn from(recompute: Recompute) -> Self {
        match recompute {
            Recompute::Auto => Self::Word("auto".into()),
            Recompute::On => Self::Decided(true),
            Recompute::Off => Self::Decided(false),
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            num_train_epochs: 1.0,
            max_steps: None,
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 1,
            learning_rate: 1e-4,
            lr_scheduler_type: ScheduleKind::Linear,
            lr_scheduler_kwargs: BTreeMap::new(),
            warmup_steps: 0,
            warmup_ratio: 0.0,
            optim: OptimizerKind::AdamW,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            loraplus_lr_ratio: None,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            shuffle: true,
            per_device_eval_batch_size: None,
            max_tokens_per_batch: None,
            group_by_length: false,
            gradient_checkpointing: Recompute::Auto,
            reference_cache: CacheChoice::Auto,
            threads: None,
            rank_timeout: RANK_TIMEOUT,
            logging_steps: 10,
            eval_steps: None,
            save_steps: None,
            save_minutes: Some(SAVE_MINUTES),
            save_total_limit: Some(2),
            early_stopping_patience: None,
            load_best_model_at_end: false,
            metric_for_best_model: "eval_loss".into(),
            greater_is_better: None,
            sync_ref_model: false,
            ref_model_mixup_alpha: 0.6,
            ref_model_sync_steps: 512,
            neftune_noise_alpha: None,
            report_to: Vec::new(),
            run_name: None,
            sample_prompts: SamplePrompts::default(),
            sample_steps: None,
        }
    }
}

impl TrainConfig {
    /// # Errors
    /// [`crate::error::Error::Config`], which lists every invalid value and its remedy.
    pub fn validate(&self) -> Result<()> {
        let mut problems = Problems::default();
        self.check_counts(&mut problems);
        self.check_numbers(&mut problems);
        self.check_warmup(&mut problems);
        self.schedule_options(&mut problems);
        self.check_reference_and_noise(&mut problems);
        self.sample_prompts.check(&mut problems);
        let criterion = self.criterion();
        problems.require(criterion.is_known(), || {
            let metric = &self.metric_for_best_model;
            let near = nearest(&criterion.metric, Evaluation::METRICS);
            let near = near.map_or(".".to_string(), |near| format!("; did you mean {near}?"));
            let known = Evaluation::METRICS.join(", ");
            format!(
                "train.metric_for_best_model is {metric}, which no evaluation reports{near} There are {known}"
            )
        });
        problems.finish()
    }
}

/// One tracker, a list of them, or `none`, which transformers has for no tracker.
fn trackers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TrackerName>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "the name of a tracker, or a list of names")]
    enum Written {
        None(()),
        One(String),
        Many(Vec<String>),
    }
    let names = match Written::deserialize(deserializer)? {
        Written::None(()) => Vec::new(),
        Written::One(name) => vec![name],
        Written::Many(names) => names,
    };
    let mut found: Vec<TrackerName> = Vec::new();
    for name in names.iter().filter(|name| *name != "none") {
        let tracker = TrackerName::parse(name).map_err(de::Error::custom)?;
        if !found.contains(&tracker) {
            found.push(tracker);
        }
    }
    Ok(found)
}

/// Rejects fractions: transformers 5 reads `warmup_steps: 0.1` as a ratio; here the ratio has its own key, which the
/// error names.
fn whole_steps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = u64;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a whole number of steps (a share of all steps is warmup_ratio)")
        }
        fn visit_u64<E: de::Error>(self, steps: u64) -> Result<u64, E> {
            Ok(steps)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(yaml: &str) -> String {
        serde_yaml::from_str::<TrainConfig>(yaml).unwrap().validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid() {
        TrainConfig::default().validate().unwrap();
        assert_eq!(serde_yaml::from_str::<TrainConfig>("{}").unwrap(), TrainConfig::default());
    }

    #[test]
    fn every_wrong_value_is_named() {
        let message = complaints(
            "{learning_rate: -1, num_train_epochs: .nan, adam_beta2: 1.0, adam_epsilon: 0, weight_decay: -0.1, \
             max_grad_norm: .inf, warmup_ratio: 3, per_device_train_batch_size: 0, threads: 0, eval_steps: 0}",
        );
        for key in [
            "learning_rate is -1;",
            "num_train_epochs is NaN;",
            "adam_beta2 is 1;",
            "adam_epsilon is 0;",
            "weight_decay is -0.1;",
            "max_grad_norm is inf;",
            "warmup_ratio is 3;",
            "per_device_train_batch_size is 0;",
            "threads is 0;",
            "eval_steps is 0;",
        ] {
            assert!(message.contains(&format!("train.{key}")), "{key} in {message}");
        }
        assert_eq!(message.lines().count(), 10);
    }

    #[test]
    fn an_unknown_metric_is_told_with_those_that_there_are() {
        let told = |metric: &str| complaints(&format!("metric_for_best_model: {metric}"));
        assert!(told("eval_accuracy").contains("which no evaluation reports. There are eval_loss, "));
        assert!(told("eval_los").contains("reports; did you mean eval_loss? There are eval_loss, "));
    }

    #[test]
    fn warmup_is_said_once_and_only_where_it_works() {
        assert!(complaints("{warmup_steps: 5, warmup_ratio: 0.1}").contains("keep one of them"));
        assert!(
            complaints("{warmup_steps: 5, lr_scheduler_type: constant}").contains("constant_with_warmup")
        );
        let error = serde_yaml::from_str::<TrainConfig>("warmup_steps: 0.1").unwrap_err().to_string();
        assert!(error.contains("warmup_ratio"), "{error}");
    }

    #[test]
    fn settings_of_a_schedule_are_those_of_its_shape() {
        let wrong = |yaml: &str| complaints(yaml);
        let message = wrong("{lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_l: 1.0e-6}}");
        assert!(
            message.contains("min_l is no setting") && message.contains("did you mean min_lr?"),
            "{message}"
        );
        assert!(message.contains("must have min_lr or min_lr_rate"), "{message}");
        assert!(wrong("lr_scheduler_kwargs: {power: 2}").contains("of this lr_scheduler_type. It has: none"));
        assert!(wrong("lr_scheduler_type: warmup_stable_decay").contains("num_decay_steps is missing"));
        assert!(
            wrong("{lr_scheduler_type: polynomial, lr_scheduler_kwargs: {lr_end: 1}}")
                .contains("lr_end is 1;")
        );
        let typed = wrong("{lr_scheduler_type: inverse_sqrt, lr_scheduler_kwargs: {timescale: soon}}");
        assert!(typed.contains("train.lr_scheduler_kwargs: ") && typed.contains("\"soon\""), "{typed}");
    }

    #[test]
    fn warmup_ratio_rounds_up_as_python_does() {
        let config = TrainConfig { warmup_ratio: 0.07, ..Default::default() };
        // math.ceil(100 * 0.07) is 8: the product is 7.000000000000001.
        assert_eq!(config.schedule(100).warmup_steps, 8);
        assert_eq!(config.schedule(10).warmup_steps, 1);
        assert_eq!(TrainConfig::default().schedule(10).warmup_steps, 0);
    }

    #[test]
    fn reference_cache_reads_words_and_paths() {
        let read = |yaml: &str| serde_yaml::from_str::<CacheChoice>(yaml);
        assert_eq!(read("auto").unwrap(), CacheChoice::Auto);
        assert_eq!(read("off").unwrap(), CacheChoice::Off);
        assert_eq!(read("false").unwrap(), CacheChoice::Off);
        assert_eq!(read("/tmp/x").unwrap(), CacheChoice::Dir("/tmp/x".into()));
        assert!(read("''").is_err());
        assert!(read("7").is_err());
    }

    #[test]
    fn clipping_is_off_at_zero() {
        assert_eq!(TrainConfig { max_grad_norm: 0.0, ..Default::default() }.clip_norm(), None);
        assert_eq!(TrainConfig::default().clip_norm(), Some(1.0));
    }
}
