//! `lr_scheduler_kwargs`: what may be set of each shape, under transformers' names.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::ScheduleKind;
use crate::error::{Problems, nearest};

/// The settings of a shape. `None` is transformers' default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Waves of a cosine (0.5), or restarts of `cosine_with_restarts` (1).
    pub num_cycles: Option<f64>,
    /// The last rate of `polynomial` (1e-7).
    pub lr_end: Option<f64>,
    /// The power of `polynomial` (1).
    pub power: Option<f64>,
    /// The time scale of `inverse_sqrt` in steps (the warm-up, or 10 000).
    pub timescale: Option<u64>,
    /// The smallest rate of a cosine.
    pub min_lr: Option<f64>,
    /// The same as a share of the peak.
    pub min_lr_rate: Option<f64>,
    /// The first rate of `cosine_warmup_with_min_lr` as a share of the peak.
    pub warmup_lr_rate: Option<f64>,
    /// Steps of the decay of `warmup_stable_decay`.
    pub num_decay_steps: Option<u64>,
    /// Steps of its constant stage (what warm-up and decay leave).
    pub num_stable_steps: Option<u64>,
    /// The shape of its warm-up (`linear`).
    pub warmup_type: Option<Ramp>,
    /// The shape of its decay (`cosine`).
    pub decay_type: Option<Ramp>,
    /// Its smallest rate as a share of the peak (0).
    pub min_lr_ratio: Option<f64>,
}

/// The shape of a warm-up or decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ramp {
    /// A line.
    #[serde(rename = "linear")]
    Linear,
    /// Half a wave.
    #[serde(rename = "cosine")]
    Cosine,
    /// 1 − √x.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Ramp {
    pub(super) fn rising(self, progress: f64) -> f64 {
        match self {
            Self::Linear => progress,
            Self::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
            Self::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
        }
    }

    pub(super) fn falling(self, progress: f64, cycles: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - progress,
            Self::Cosine => 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos()),
            Self::OneMinusSqrt => 1.0 - progress.sqrt(),
        }
    }
}

impl Options {
    pub(super) const LR_END: f64 = 1e-7;

    /// Reads the settings of a shape; what is invalid is reported.
    pub fn new(
        kind: ScheduleKind,
        written: &BTreeMap<String, Value>,
        learning_rate: f64,
        problems: &mut Problems,
    ) -> Self {
        const KEY: &str = "train.lr_scheduler_kwargs";
        let known = keys(kind);
        for key in written.keys().filter(|key| !known.contains(&key.as_str())) {
            let near = nearest(key, known.iter().copied())
                .map_or(".".to_string(), |near| format!("; did you mean {near}?"));
            let list = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            problems.add(format!("{KEY}.{key} is no setting of this lr_scheduler_type{near} It has: {list}"));
        }
        let known = written.iter().filter(|(key, _)| known.contains(&key.as_str()));
        let section = known.map(|(key, value)| (Value::from(key.as_str()), value.clone())).collect();
        let options: Self = match serde_yaml::from_value(Value::Mapping(section)) {
            Ok(options) => options,
            Err(error) => {
                problems.add(format!("{KEY}: {error}"));
                return Self::default();
            }
        };
        options.check(kind, learning_rate, problems);
        options
    }

    fn check(&self, kind: ScheduleKind, learning_rate: f64, problems: &mut Problems) {
        const KEY: &str = "train.lr_scheduler_kwargs";
        let numbers = [
            ("num_cycles", self.num_cycles),
            ("lr_end", self.lr_end),
            ("power", self.power),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("warmup_lr_rate", self.warmup_lr_rate),
            ("min_lr_ratio", self.min_lr_ratio),
        ];
        for (key, number) in numbers {
            problems.require(number.is_none_or(|x| x.is_finite() && x >= 0.0), || {
                format!(
                    "{KEY}.{key} is {}; it must be a finite number, 0 or more",
                    number.unwrap_or_default()
                )
            });
        }
        problems.require(self.timescale != Some(0), || format!("{KEY}.timescale is 0; it must be 1 or more"));
        let has_min = matches!(kind, ScheduleKind::CosineWithMinLr | ScheduleKind::CosineWarmupWithMinLr);
        problems.require(!has_min || self.min_lr.is_some() != self.min_lr_rate.is_some(), || {
            format!("{KEY} must have min_lr or min_lr_rate, and not both, with this lr_scheduler_type")
        });
        problems.require(kind != ScheduleKind::WarmupStableDecay || self.num_decay_steps.is_some(), || {
            format!("{KEY}.num_decay_steps is missing; warmup_stable_decay needs it")
        });
        let end = self.lr_end.unwrap_or(Self::LR_END);
        problems.require(kind != ScheduleKind::Polynomial || end < learning_rate, || {
            format!("{KEY}.lr_end is {end}; it must be below train.learning_rate, which is {learning_rate}")
        });
    }
}

/// The settings that a shape has.
fn keys(kind: ScheduleKind) -> &'static [&'static str] {
    match kind {
        ScheduleKind::Linear | ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => &[],
        ScheduleKind::Cosine | ScheduleKind::CosineWithRestarts => &["num_cycles"],
        ScheduleKind::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
        ScheduleKind::CosineWarmupWithMinLr => &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
        ScheduleKind::Polynomial => &["lr_end", "power"],
        ScheduleKind::InverseSqrt => &["timescale"],
        ScheduleKind::WarmupStableDecay => &[
            "num_decay_steps",
            "num_stable_steps",
            "warmup_type",
            "decay_type",
            "min_lr_ratio",
            "num_cycles",
        ],
    }
}
