//! What a run will do, known before its first step: its steps and learning rates, and whether they can teach anything.
//!
//! AdamW moves every number by at most about the learning rate in a step, so the sum of the rates over a run, its reach,
//! bounds how far A and B get. The adapter's product is scaled by `lora_alpha / r` and has r terms, hence the reach counts
//! `lora_alpha / 32` fold (with `use_rslora`, `√r` times as much; with LoRA+, as many times as B's rate is A's). `tests/benches/defaults.py` measured what a reach
//! teaches; the table is in `docs/src/tuning.md`, and the bounds below are from it.

use std::fmt;

use super::config::TrainConfig;
use super::optimizer::OptimizerKind;
use super::schedule::Schedule;
use crate::model::config::LoraConfig;
use crate::model::initialisation::InitLoraWeights;
use crate::objective::{Needs, Records};

/// Below this reach, none of the measured bases learned anything of 60 pairs.
const SHORT: f64 = 2e-4;

/// What a run that is too short is advised to reach.
const ADVISED: f64 = 2e-3;

/// Beyond this reach, every measured base was about a nat per token or more from its reference. It is a matter of
/// preferences: imitation goes on for longer.
const LONG: f64 = 0.03;

/// Beyond this rate, counted like the reach, single steps are too large.
const HOT: f64 = 1e-3;

/// The highest rate that is advised.
const HIGHEST_ADVISED: f64 = 2e-4;

/// More passes than these over the same records are not advised.
const MOST_EPOCHS: f64 = 30.0;

/// A run before its first step.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Optimizer steps.
    pub steps: u64,
    /// Records in a step.
    pub per_step: usize,
    /// Passes over the records.
    pub epochs: f64,
    records: usize,
    /// Whether `max_steps` decides its length.
    is_limited: bool,
    needs: Needs,
    schedule: Schedule,
    /// How much a number of the adapter counts for, against the defaults of `lora`; `None` if the optimizer does not
    /// move by the learning rate, or the adapter starts from the base's weights.
    strength: Option<f64>,
}

impl Course {
    /// The course of a run over so many training records, with losses that need this.
    pub fn new(train: &TrainConfig, lora: &LoraConfig, records: usize, needs: Needs) -> Self {
        let steps = train.steps(records);
        let per_epoch = train.steps_per_epoch(records);
        let rank = if lora.use_rslora { (lora.r as f64).sqrt() } else { 1.0 };
        // B starts at 0, so that the product grows by the rate of B. What PiSSA bears was not measured.
        let of_b = train.loraplus_lr_ratio.unwrap_or(1.0);
        let is_pissa = matches!(lora.init_lora_weights, InitLoraWeights::Pissa(_));
        let is_lora = lora.prefix_tuning.is_none() && lora.adapter_layers.is_none();
        let moves_by_the_rate = match train.optim {
            OptimizerKind::AdamW
            | OptimizerKind::AdamW8Bit
            | OptimizerKind::ScheduleFreeAdamW
            | OptimizerKind::Lion
            | OptimizerKind::RmsProp => true,
            OptimizerKind::Sgd | OptimizerKind::Muon => false,
        };
        Self {
            steps,
            per_step: train
                .per_device_train_batch_size
                .saturating_mul(train.gradient_accumulation_steps)
                .min(records.max(1)),
            epochs: steps as f64 / per_epoch.max(1) as f64,
            records,
            is_limited: train.max_steps.is_some(),
            needs,
            schedule: train.schedule(steps),
            strength: (moves_by_the_rate && !is_pissa && is_lora)
                .then_some(lora.lora_alpha * rank * of_b / 32.0),
        }
    }

    /// Returns the same course for an adapter whose learning rates were not measured: nothing is said about them.
    #[must_use]
    pub fn of_unknown_strength(self) -> Self {
        Self { strength: None, ..self }
    }

    /// Returns the sum of the learning rates of all steps.
    fn reach(&self) -> f64 {
        let rates: Vec<f64> = self.schedule.sampled().map(|step| self.schedule.lr(step)).collect();
        rates.iter().sum::<f64>() * self.steps as f64 / rates.len().max(1) as f64
    }

    /// The highest learning rate, for people to read.
    fn peak(&self) -> f64 {
        let (highest, rate) = (self.schedule.highest(), self.schedule.learning_rate);
        if (highest - rate).abs() <= 1e-9 * rate { rate } else { shortened(highest) }
    }

    /// Returns what about the run looks wrong, with the remedy.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.schedule.warmup_steps >= self.steps && self.schedule.warmup_steps > 0 {
            warnings.push(format!(
                "the warm-up of {} steps is as long as the run of {} steps, so that the learning rate never comes to its \
                 peak: set train.warmup_ratio: 0.1 instead of train.warmup_steps, or train longer",
                self.schedule.warmup_steps, self.steps
            ));
            // Nothing else can be said of rates that never come to their peak.
            return warnings;
        }
        if self.begins_late() {
            warnings.push(self.late());
            // As above.
            return warnings;
        }
        warnings.extend(self.stages_apart());
        warnings.extend(self.rising());
        warnings.extend(self.strength.and_then(|strength| self.unsuited(strength)));
        warnings
    }

    /// Whether the decay of `warmup_stable_decay` has begun before the learning rate can come to its peak.
    fn begins_late(&self) -> bool {
        let room = self.steps.saturating_sub(self.schedule.warmup_steps);
        self.schedule.options.num_stable_steps.is_none()
            && self.schedule.decay_steps().is_some_and(|decay| decay > room)
    }

    /// What is wrong with a decay that is longer than the run.
    fn late(&self) -> String {
        let steps = |count| counted(count, "step", "steps");
        let Schedule { warmup_steps: warmup, learning_rate, .. } = self.schedule;
        let decay = steps(self.schedule.decay_steps().unwrap_or_default());
        let decay = match warmup {
            0 => format!("the decay of {decay} is"),
            warmup => format!("the warm-up of {} and the decay of {decay} are", steps(warmup)),
        };
        format!(
            "{decay} longer than the run of {}, so that the decay begins too early and the learning rate is {:e} at most, not \
             {learning_rate:e}: set train.lr_scheduler_kwargs.num_decay_steps to {} or less, or train longer",
            steps(self.steps),
            self.peak(),
            self.steps.saturating_sub(warmup)
        )
    }

    /// What is wrong with stages of `warmup_stable_decay` that are not as long as the run.
    fn stages_apart(&self) -> Option<String> {
        let (decay, options) = (self.schedule.decay_steps()?, self.schedule.options);
        let stable = options.num_stable_steps?;
        let all = self.schedule.warmup_steps.saturating_add(stable).saturating_add(decay);
        let effect = if all > self.steps {
            "the run ends before the decay does".to_string()
        } else if all < self.steps && options.min_lr_ratio.unwrap_or(0.0) == 0.0 {
            format!("the last {} have the learning rate 0", counted(self.steps - all, "step", "steps"))
        } else {
            return None;
        };
        Some(format!(
            "warm-up, num_stable_steps and num_decay_steps of train.lr_scheduler_kwargs are {} together, and the run has {}, so \
             that {effect}: leave num_stable_steps out, or make them as long as the run",
            counted(all, "step", "steps"),
            self.steps
        ))
    }

    /// What is wrong with a smallest rate above the peak.
    fn rising(&self) -> Option<String> {
        let (highest, rate) = (self.schedule.highest(), self.schedule.learning_rate);
        (highest > rate * (1.0 + 1e-9)).then(|| {
            // Shortened, it may be the same number.
            let peak = self.peak();
            let shown = if peak > rate { peak } else { highest };
            format!(
                "the learning rate comes to {shown:e}, which is above train.learning_rate, {rate:e}: lower the rates and ratios \
                 of train.lr_scheduler_kwargs"
            )
        })
    }

    fn unsuited(&self, strength: f64) -> Option<String> {
        let (reach, rate) = (self.reach() * strength, self.peak());
        let steps = counted(self.steps, "step", "steps");
        if reach == 0.0 {
            return Some(format!(
                "the learning rate is 0 in each of {steps}, so that nothing is learned; train longer, or set another \
                 train.lr_scheduler_type"
            ));
        }
        if reach < SHORT {
            let advice = self.longer(ADVISED / reach, strength);
            return Some(format!(
                "the run is too short to learn: {steps} at learning rates of up to {rate:e} hardly move the adapter; try {advice}"
            ));
        }
        if rate * strength > HOT {
            return Some(format!(
                "the learning rate of {rate:e} is too high for bases of more than a few million parameters: they \
                 forget how to write; try train.learning_rate: {:e}",
                rounded(HIGHEST_ADVISED / strength)
            ));
        }
        (self.needs.reference && reach > LONG).then(|| {
            format!(
                "the run is long for its learning rate: {steps} at up to {rate:e} move the adapter far from the \
                 reference; try train.learning_rate: {:e}, fewer epochs, or larger batches, and watch eval_kl",
                rounded(self.schedule.learning_rate * LONG / 2.0 / reach)
            )
        })
    }

    /// Settings with which the reach is `factor` times as large: a higher rate first, then a longer run.
    fn longer(&self, factor: f64, strength: f64) -> String {
        let rate = self.schedule.learning_rate;
        let higher = rounded((rate * factor).min(HIGHEST_ADVISED / strength)).max(rate);
        let stretch = factor * rate / higher;
        let mut advice = Vec::new();
        if higher > rate {
            advice.push(format!("train.learning_rate: {higher:e}"));
        }
        if stretch > 1.0 && self.is_limited {
            advice.push(format!("train.max_steps: {:.0}", (self.steps as f64 * stretch).ceil()));
        } else if stretch > 1.0 && self.epochs * stretch <= MOST_EPOCHS {
            advice.push(format!("train.num_train_epochs: {}", (self.epochs * stretch).ceil()));
        } else if stretch > 1.0 {
            advice.push(format!("more {} than {}", self.noun(2), self.records));
        }
        let smaller = if self.per_step > 4 { ", or smaller batches" } else { "" };
        format!("{}{smaller}", advice.join(" and "))
    }

    fn noun(&self, count: usize) -> &'static str {
        match (self.needs.records, count) {
            (Records::Pairs, 1) => "pair",
            (Records::Pairs, _) => "pairs",
            (Records::Triples, 1) => "triple",
            (Records::Triples, _) => "triples",
            (Records::Ranked, 1) => "ranked list",
            (Records::Ranked, _) => "ranked lists",
            (Records::Judged, 1) => "judged answer",
            (Records::Judged, _) => "judged answers",
            (Records::Texts, 1) => "text",
            (Records::Texts, _) => "texts",
            (Records::Prompts, 1) => "prompt",
            (Records::Prompts, _) => "prompts",
        }
    }
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Schedule { kind, warmup_steps, .. } = self.schedule;
        let peak = self.peak();
        write!(
            f,
            "{} of {} {}: {} over {} {}; learning rate {peak:e} at its peak, {kind}",
            counted(self.steps, "step", "steps"),
            self.per_step,
            self.noun(self.per_step),
            epochs(self.epochs),
            self.records,
            self.noun(self.records),
        )?;
        match warmup_steps {
            0 => Ok(()),
            steps => write!(f, " after a warm-up of {}", counted(steps, "step", "steps")),
        }
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// With at most two decimals.
fn epochs(epochs: f64) -> String {
    let rounded = (100.0 * epochs).round() / 100.0;
    format!("{rounded} {}", if rounded == 1.0 { "epoch" } else { "epochs" })
}

/// To four significant digits.
fn shortened(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// To one significant digit.
fn rounded(value: f64) -> f64 {
    format!("{value:.0e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(train: TrainConfig, records: usize) -> Course {
        Course::new(&train, &LoraConfig::default(), records, Needs::PAIRS)
    }

    /// One epoch at a constant rate: the reach is steps times rate.
    fn constant(learning_rate: f64, records: usize) -> Course {
        let train = TrainConfig {
            learning_rate,
            lr_scheduler_type: super::super::schedule::ScheduleKind::Constant,
            warmup_steps: 0,
            warmup_ratio: 0.0,
            num_train_epochs: 1.0,
            per_device_train_batch_size: 4,
            ..TrainConfig::default()
        };
        course(train, records)
    }

    #[test]
    fn steps_epochs_and_rates_are_told() {
        let train = TrainConfig {
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 4,
            num_train_epochs: 3.0,
            learning_rate: 5e-5,
            warmup_steps: 1,
            ..TrainConfig::default()
        };
        // 60 pairs are four steps of at most 16, of which the last has 12.
        assert_eq!(
            course(train.clone(), 60).to_string(),
            "12 steps of 16 pairs: 3 epochs over 60 pairs; learning rate 5e-5 at its peak, linear after a warm-up of 1 step"
        );
        let one = TrainConfig { max_steps: Some(1), warmup_steps: 0, ..train };
        assert_eq!(
            Course::new(&one, &LoraConfig::default(), 1, Needs { records: Records::Judged, ..Needs::PAIRS })
                .to_string(),
            "1 step of 1 judged answer: 1 epoch over 1 judged answer; learning rate 5e-5 at its peak, linear"
        );
    }

    #[test]
    fn the_reach_is_the_sum_of_the_rates() {
        assert!((constant(1e-4, 60).reach() - 15e-4).abs() < 1e-12);
        // Linear decay over n steps from the peak p, with the last at p/n: p (n + 1) / 2.
        let linear = |records| {
            let train = TrainConfig {
                learning_rate: 1e-4,
                num_train_epochs: 1.0,
                per_device_train_batch_size: 1,
                warmup_ratio: 0.0,
                warmup_steps: 0,
                ..TrainConfig::default()
            };
            course(train, records).reach()
        };
        assert!((linear(9) - 5e-4).abs() < 1e-12, "{}", linear(9));
        // Sampled: within 0.1 %, and in no time.
        assert!((linear(1_000_001) / 50.0 - 1.0).abs() < 1e-3, "{}", linear(1_000_001));
        let forever = TrainConfig { max_steps: Some(u64::MAX), ..TrainConfig::default() };
        assert!(course(forever, 10).reach().is_finite());
    }

    #[test]
    fn short_and_hot_runs_are_told_on_one_side_of_the_bound_only() {
        let told = |course: &Course| course.warnings().join("\n");
        // The README's settings of old on 60 pairs: 4 steps of 16 at 5e-6.
        let old = TrainConfig {
            gradient_accumulation_steps: 4,
            per_device_train_batch_size: 4,
            learning_rate: 5e-6,
            num_train_epochs: 1.0,
            ..TrainConfig::default()
        };
        let message = told(&course(old, 60));
        assert!(message.contains("too short to learn: 4 steps at learning rates of up to 5e-6"), "{message}");
        assert!(message.contains("train.learning_rate: 2e-4 and train.num_train_epochs: "), "{message}");
        assert!(told(&constant(SHORT / 10.0 * 0.99, 40)).contains("too short"));
        assert_eq!(told(&constant(SHORT / 10.0 * 1.01, 40)), "");
        assert!(told(&constant(HOT * 1.01, 40)).contains("train.learning_rate: 2e-4"));
        assert_eq!(told(&constant(HOT * 0.99, 40)), "");
        assert!(told(&constant(LONG / 1000.0 * 1.01, 4000)).contains("long for its learning rate"));
        assert_eq!(told(&constant(LONG / 1000.0 * 0.99, 4000)), "");
        let imitated =
            Course { needs: Needs { reference: false, ..Needs::PAIRS }, ..constant(LONG / 500.0, 4000) };
        assert_eq!(told(&imitated), "");
    }

    #[test]
    fn alpha_counts_as_the_rate_does_and_another_optimizer_is_not_judged() {
        let course = |lora: &LoraConfig, optim| {
            let train =
                TrainConfig { learning_rate: 5e-4, max_steps: Some(40), optim, ..TrainConfig::default() };
            Course::new(&train, lora, 160, Needs::PAIRS).warnings()
        };
        let strong = LoraConfig { lora_alpha: 128.0, ..LoraConfig::default() };
        assert!(course(&LoraConfig::default(), OptimizerKind::AdamW).is_empty());
        assert!(course(&strong, OptimizerKind::AdamW)[0].contains("train.learning_rate: 5e-5"));
        assert!(course(&strong, OptimizerKind::Sgd).is_empty());
        let stabilised = LoraConfig { use_rslora: true, r: 16, ..LoraConfig::default() };
        assert_eq!(course(&stabilised, OptimizerKind::AdamW), course(&strong, OptimizerKind::AdamW));
        let pissa = LoraConfig { init_lora_weights: InitLoraWeights::Pissa(None), ..strong };
        assert!(course(&pissa, OptimizerKind::AdamW).is_empty());
    }

    #[test]
    fn the_rate_of_b_counts_with_lora_plus() {
        let train = TrainConfig {
            learning_rate: 1e-4,
            loraplus_lr_ratio: Some(16.0),
            max_steps: Some(15),
            ..TrainConfig::default()
        };
        assert!(course(train.clone(), 60).warnings()[0].contains("train.learning_rate: 1e-5"));
        // The reach of 15 steps at 5e-6 is that of 15 steps at 8e-5.
        assert!(course(TrainConfig { learning_rate: 5e-6, ..train.clone() }, 60).warnings().is_empty());
        let short = TrainConfig { learning_rate: 5e-6, loraplus_lr_ratio: None, ..train };
        assert!(course(short, 60).warnings()[0].contains("too short"));
    }

    #[test]
    fn a_warm_up_of_the_whole_run_is_told() {
        let train = TrainConfig {
            warmup_steps: 15,
            learning_rate: 2e-4,
            num_train_epochs: 1.0,
            per_device_train_batch_size: 4,
            ..TrainConfig::default()
        };
        assert!(
            course(train.clone(), 60).warnings()[0]
                .contains("warm-up of 15 steps is as long as the run of 15")
        );
        assert!(course(TrainConfig { warmup_steps: 14, ..train.clone() }, 60).warnings().is_empty());
        assert!(course(train.clone(), 60).to_string().contains("learning rate 1.867e-4 at its peak"));
        // The first of them has the rate 0.
        let one = TrainConfig { warmup_steps: 2, max_steps: Some(1), ..train };
        let warnings = course(one, 60).warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("warm-up of 2 steps"), "{warnings:?}");
    }

    fn stages(kwargs: &str, warmup_steps: u64, steps: u64) -> Course {
        let train = TrainConfig {
            lr_scheduler_type: super::super::schedule::ScheduleKind::WarmupStableDecay,
            lr_scheduler_kwargs: serde_yaml::from_str(kwargs).unwrap(),
            learning_rate: 1e-4,
            warmup_steps,
            max_steps: Some(steps),
            ..TrainConfig::default()
        };
        course(train, 400)
    }

    #[test]
    fn a_decay_that_is_longer_than_the_run_is_told_with_the_rate_that_is_left() {
        let late = stages("{num_decay_steps: 50}", 0, 12);
        let warnings = late.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let highest = late.schedule.lr(0);
        assert!(highest < 0.2e-4);
        let left = format!("is {highest:.3e} at most, not 1e-4");
        for part in [
            "the decay of 50 steps is longer than the run of 12 steps",
            left.as_str(),
            "train.lr_scheduler_kwargs.num_decay_steps to 12 or less",
        ] {
            assert!(warnings[0].contains(part), "{part} in {warnings:?}");
        }
        assert!(late.to_string().contains(&format!("learning rate {highest:.3e} at its peak")), "{late}");
        // Two steps are not advised to become thousands.
        assert!(!stages("{num_decay_steps: 50}", 0, 2).warnings().join(" ").contains("max_steps"));
        let warned = stages("{num_decay_steps: 10}", 4, 12).warnings();
        assert!(warned[0].contains("the warm-up of 4 steps and the decay of 10 steps"), "{warned:?}");
        assert!(warned[0].contains("num_decay_steps to 8 or less"), "{warned:?}");
        assert!(stages("{num_decay_steps: 8}", 4, 12).warnings().is_empty());
    }

    #[test]
    fn stages_and_rates_that_do_not_fit_the_run_are_told() {
        let told = |kwargs: &str| stages(kwargs, 2, 12).warnings().join("\n");
        assert!(
            told("{num_stable_steps: 6, num_decay_steps: 8}")
                .contains("are 16 steps together, and the run has 12")
        );
        assert!(
            told("{num_stable_steps: 6, num_decay_steps: 8}").contains("the run ends before the decay does")
        );
        assert!(
            told("{num_stable_steps: 2, num_decay_steps: 4}")
                .contains("the last 4 steps have the learning rate 0")
        );
        assert_eq!(told("{num_stable_steps: 2, num_decay_steps: 4, min_lr_ratio: 0.1}"), "");
        assert_eq!(told("{num_stable_steps: 6, num_decay_steps: 4}"), "");
        let above = told("{num_decay_steps: 4, min_lr_ratio: 3}");
        assert!(above.contains("above train.learning_rate, 1e-4"), "{above}");
    }

    #[test]
    fn a_rate_is_above_another_by_more_than_its_rounding() {
        // By less than what is shown of it.
        let above = stages("{num_decay_steps: 4, min_lr_ratio: 1.0001}", 2, 12).rising().unwrap();
        assert!(above.contains("comes to 1.0001e-4"), "{above}");
        // The last step of this warm-up has 1.234867e-4, which is shown as 1.235e-4.
        let below = TrainConfig {
            learning_rate: 1.23499e-4,
            warmup_steps: 10_000,
            max_steps: Some(10_000),
            ..TrainConfig::default()
        };
        let below = course(below, 60);
        assert!(below.peak() > below.schedule.learning_rate, "{below}");
        assert_eq!(below.rising(), None);
    }
}
