//! What the values of the training settings must be.

use super::{MOST_THREADS, OptimizerKind, SAVE_MINUTES, TrainConfig};
use crate::error::Problems;
use crate::train::schedule::ScheduleKind;

impl TrainConfig {
    pub(super) fn check_counts(&self, problems: &mut Problems) {
        let counts = [
            ("max_steps", self.max_steps, "null to go by num_train_epochs"),
            (
                "per_device_train_batch_size",
                Some(self.per_device_train_batch_size as u64),
                "1 for the smallest batch",
            ),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps as u64), "1 for none"),
            (
                "per_device_eval_batch_size",
                self.per_device_eval_batch_size.map(|n| n as u64),
                "null for the training size",
            ),
            ("max_tokens_per_batch", self.max_tokens_per_batch.map(|n| n as u64), "null for no limit"),
            ("threads", self.threads.map(|n| n as u64), "null for all cores"),
            ("logging_steps", Some(self.logging_steps), "1 for every step"),
            ("eval_steps", self.eval_steps, "null for the end only"),
            ("save_steps", self.save_steps, "null for none by steps"),
            ("sample_steps", self.sample_steps, "null for before and after only"),
            ("save_total_limit", self.save_total_limit.map(|n| n as u64), "null to keep all"),
            (
                "early_stopping_patience",
                self.early_stopping_patience.map(|n| n as u64),
                "null to never stop early",
            ),
        ];
        problems.require(self.threads.is_none_or(|threads| threads <= MOST_THREADS), || {
            let threads = self.threads.unwrap_or_default();
            format!("train.threads is {threads}; it must be {MOST_THREADS} or less (null for all cores)")
        });
        for (key, value, otherwise) in counts {
            problems.require(value != Some(0), || {
                format!("train.{key} is 0; it must be 1 or more ({otherwise})")
            });
        }
    }

    pub(super) fn check_numbers(&self, problems: &mut Problems) {
        let by_both = self.save_steps.is_some() && !matches!(self.save_minutes, None | Some(SAVE_MINUTES));
        problems.require(!by_both, || {
            let minutes = self.save_minutes.unwrap_or_default();
            format!("train.save_minutes is {minutes}, but checkpoints come by train.save_steps; set one of the two")
        });
        let mut check = |key: &str, value: f64, holds: bool, remedy: &str| {
            problems.require(value.is_finite() && holds, || format!("train.{key} is {value}; {remedy}"));
        };
        let unit = 0.0..1.0;
        check(
            "rank_timeout",
            self.rank_timeout,
            (1.0..=86_400.0).contains(&self.rank_timeout),
            "it is a number of seconds from 1 to 86400, such as 25",
        );
        check(
            "save_minutes",
            self.save_minutes.unwrap_or(1.0),
            self.save_minutes.is_none_or(|minutes| minutes > 0.0),
            "it must be above 0, such as 10, or null for no checkpoints by time",
        );
        check(
            "num_train_epochs",
            self.num_train_epochs,
            self.num_train_epochs > 0.0,
            "it must be a number above 0, such as 1",
        );
        check(
            "learning_rate",
            self.learning_rate,
            self.learning_rate > 0.0,
            "it must be a number above 0, such as 1.0e-4",
        );
        check(
            "adam_beta1",
            self.adam_beta1,
            unit.contains(&self.adam_beta1)
                && (self.adam_beta1 > 0.0 || self.optim != OptimizerKind::ScheduleFreeAdamW),
            "it must be in [0, 1), such as 0.9, and above 0 for schedule_free_adamw",
        );
        check(
            "adam_beta2",
            self.adam_beta2,
            unit.contains(&self.adam_beta2),
            "it must be in [0, 1), such as 0.999",
        );
        check("adam_epsilon", self.adam_epsilon, self.adam_epsilon > 0.0, "it must be above 0, such as 1e-8");
        let ratio = self.loraplus_lr_ratio.unwrap_or(1.0);
        check(
            "loraplus_lr_ratio",
            ratio,
            ratio > 0.0,
            "it must be above 0, such as 16, or null for one learning rate of A and B",
        );
        check("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "it must be 0 (none) or more");
        check(
            "max_grad_norm",
            self.max_grad_norm,
            self.max_grad_norm >= 0.0,
            "it must be 0 (no clipping) or more",
        );
        check(
            "warmup_ratio",
            self.warmup_ratio,
            unit.contains(&self.warmup_ratio),
            "it is a share of all steps, in [0, 1); write a number of steps as warmup_steps",
        );
    }

    pub(super) fn check_reference_and_noise(&self, problems: &mut Problems) {
        let alpha = self.ref_model_mixup_alpha;
        problems.require((0.0..=1.0).contains(&alpha), || {
            format!("train.ref_model_mixup_alpha is {alpha}; it is a share, from 0 to 1")
        });
        problems.require(self.ref_model_sync_steps > 0, || {
            "train.ref_model_sync_steps is 0; it must be 1 or more, such as 512".into()
        });
        let noise = self.neftune_noise_alpha;
        problems.require(noise.is_none_or(|noise| noise.is_finite() && noise > 0.0), || {
            let noise = noise.unwrap_or_default();
            format!("train.neftune_noise_alpha is {noise}; it must be a number above 0, such as 5, or null for no noise")
        });
    }

    pub(super) fn check_warmup(&self, problems: &mut Problems) {
        problems.require(self.warmup_steps == 0 || self.warmup_ratio == 0.0, || {
            format!(
                "train.warmup_steps is {} and train.warmup_ratio is {}; keep one of them",
                self.warmup_steps, self.warmup_ratio
            )
        });
        let warms_up = self.warmup_steps > 0 || self.warmup_ratio > 0.0;
        let has_own = self.optim == OptimizerKind::ScheduleFreeAdamW;
        problems.require(!(warms_up && self.lr_scheduler_type == ScheduleKind::Constant && !has_own), || {
            "train.lr_scheduler_type is constant, which has no warm-up; write constant_with_warmup, or remove \
             warmup_steps and warmup_ratio"
                .into()
        });
    }
}
