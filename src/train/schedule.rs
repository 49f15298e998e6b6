//! Learning rate schedules: pure functions of the step, as in `transformers.optimization.get_scheduler`.

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

mod options;

pub use self::options::{Options, Ramp};

/// Rates that are looked at: more steps are sampled.
const SAMPLED: u64 = 4096;

/// The shape of the learning rate schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Linear decay to 0 after the warm-up.
    #[default]
    Linear,
    /// Cosine decay to 0 over half a period after the warm-up.
    Cosine,
    /// Cosine decays to 0, each beginning at the peak.
    CosineWithRestarts,
    /// Cosine decay to a smallest rate.
    CosineWithMinLr,
    /// The same with a warm-up that does not begin at 0.
    CosineWarmupWithMinLr,
    /// A power of the remaining share of steps.
    Polynomial,
    /// The inverse square root of the step.
    InverseSqrt,
    /// A constant rate between warm-up and decay.
    WarmupStableDecay,
    /// Constant, without warm-up.
    Constant,
    /// Constant after the warm-up.
    ConstantWithWarmup,
}

impl fmt::Display for ScheduleKind {
    /// Its name in a configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A learning rate for every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// What `lr_scheduler_kwargs` set of the shape.
    pub options: Options,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Optimizer steps in the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps in the run.
    pub total_steps: u64,
}

impl Schedule {
    /// Returns the learning rate of the 0-based optimizer step `step`. With a warm-up, the rate of step 0 is 0, unless
    /// the shape says otherwise.
    pub fn lr(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    /// Returns steps of the run, evenly spaced: all of them, unless there are very many.
    pub(super) fn sampled(&self) -> impl Iterator<Item = u64> + use<> {
        let (all, count) = (u128::from(self.total_steps), self.total_steps.clamp(1, SAMPLED));
        (0..count).map(move |i| (u128::from(i) * all / u128::from(count)) as u64)
    }

    /// Returns the highest learning rate of the run. It is not `learning_rate` if the run never comes to its peak.
    pub fn highest(&self) -> f64 {
        let last = self.total_steps.saturating_sub(1);
        let edges = [self.warmup_steps.saturating_sub(1), self.warmup_steps, last];
        let steps = self.sampled().chain(edges.map(|step| step.min(last)));
        steps.map(|step| self.lr(step)).fold(0.0, f64::max)
    }

    /// Returns the steps of the decay of `warmup_stable_decay`; `None` of another shape.
    pub(super) fn decay_steps(&self) -> Option<u64> {
        self.options.num_decay_steps.filter(|_| self.kind == ScheduleKind::WarmupStableDecay)
    }

    fn factor(&self, step: u64) -> f64 {
        use ScheduleKind as K;
        if self.kind == K::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return self.warming(step);
        }
        let options = &self.options;
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / decay_steps;
        let wave = |cycles: f64, progress: f64| 0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos());
        match self.kind {
            K::Constant | K::ConstantWithWarmup => 1.0,
            K::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            K::Cosine => wave(options.num_cycles.unwrap_or(0.5), progress).max(0.0),
            K::CosineWithRestarts if progress >= 1.0 => 0.0,
            K::CosineWithRestarts => {
                (0.5 * (1.0 + (PI * ((options.num_cycles.unwrap_or(1.0) * progress) % 1.0)).cos())).max(0.0)
            }
            K::CosineWithMinLr => self.above_min(wave(options.num_cycles.unwrap_or(0.5), progress)),
            K::CosineWarmupWithMinLr => {
                let progress = ((step - self.warmup_steps) as f64 + 1.0) / decay_steps;
                self.above_min(wave(options.num_cycles.unwrap_or(0.5), progress))
            }
            K::Polynomial => self.polynomial(step, progress),
            K::InverseSqrt => {
                let timescale = self.timescale();
                let shift = timescale - self.warmup_steps as f64;
                1.0 / ((step as f64 + shift) / timescale).sqrt()
            }
            K::WarmupStableDecay => self.stable_or_decaying(step),
        }
    }

    fn warming(&self, step: u64) -> f64 {
        let progress = step as f64 / self.warmup_steps as f64;
        match (self.kind, self.options.warmup_lr_rate) {
            (ScheduleKind::CosineWarmupWithMinLr, None) => (step as f64 + 1.0) / self.warmup_steps as f64,
            (ScheduleKind::CosineWarmupWithMinLr, Some(rate)) => {
                rate + (1.0 - rate) * step as f64 / (self.warmup_steps - 1).max(1) as f64
            }
            (ScheduleKind::WarmupStableDecay, _) => {
                let factor = self.options.warmup_type.unwrap_or(Ramp::Linear).rising(progress);
                self.above_ratio(factor)
            }
            _ => progress,
        }
    }

    /// Scales a factor in [0, 1] to the range above `min_lr` or `min_lr_rate`.
    fn above_min(&self, factor: f64) -> f64 {
        let least = self.options.min_lr.map(|least| least / self.learning_rate);
        let least = least.or(self.options.min_lr_rate).unwrap_or(0.0);
        (factor * (1.0 - least) + least).max(0.0)
    }

    fn above_ratio(&self, factor: f64) -> f64 {
        let least = self.options.min_lr_ratio.unwrap_or(0.0);
        (factor * (1.0 - least) + least).max(0.0)
    }

    fn polynomial(&self, step: u64, progress: f64) -> f64 {
        let end = self.options.lr_end.unwrap_or(Options::LR_END);
        if step > self.total_steps {
            return end / self.learning_rate;
        }
        let power = self.options.power.unwrap_or(1.0);
        ((self.learning_rate - end) * (1.0 - progress).powf(power) + end) / self.learning_rate
    }

    fn timescale(&self) -> f64 {
        let otherwise = if self.warmup_steps == 0 { 10_000 } else { self.warmup_steps };
        self.options.timescale.unwrap_or(otherwise).max(1) as f64
    }

    /// The two later stages of `warmup_stable_decay`. If warm-up and decay are longer than the run, the decay has begun
    /// before the warm-up ends, as in transformers.
    fn stable_or_decaying(&self, step: u64) -> f64 {
        let decay = self.options.num_decay_steps.unwrap_or(0) as f64;
        let (total, warmup) = (self.total_steps as f64, self.warmup_steps as f64);
        let stable = self.options.num_stable_steps.map_or(total - warmup - decay, |steps| steps as f64);
        let after = step as f64 - warmup - stable;
        if after < 0.0 {
            return 1.0;
        }
        if after >= decay {
            return self.options.min_lr_ratio.unwrap_or(0.0);
        }
        let cycles = self.options.num_cycles.unwrap_or(0.5);
        let factor = self.options.decay_type.unwrap_or(Ramp::Cosine).falling(after / decay.max(1.0), cycles);
        self.above_ratio(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lrs(kind: ScheduleKind, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let schedule =
            Schedule { kind, options: Options::default(), learning_rate: 2.0, warmup_steps, total_steps };
        (0..=total_steps).map(|step| schedule.lr(step)).collect()
    }

    #[test]
    fn linear_rises_from_zero_and_falls_to_zero() {
        assert_eq!(lrs(ScheduleKind::Linear, 2, 6), [0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0]);
        assert_eq!(lrs(ScheduleKind::Linear, 0, 4), [2.0, 1.5, 1.0, 0.5, 0.0]);
    }

    #[test]
    fn cosine_is_half_way_at_the_middle() {
        let lrs = lrs(ScheduleKind::Cosine, 1, 5);
        assert_eq!(lrs[..2], [0.0, 2.0]);
        assert!((lrs[3] - 1.0).abs() < 1e-15);
        assert!(lrs[5].abs() < 1e-15);
    }

    #[test]
    fn constants_differ_in_the_warmup_only() {
        assert_eq!(lrs(ScheduleKind::Constant, 2, 3), [2.0; 4]);
        assert_eq!(lrs(ScheduleKind::ConstantWithWarmup, 2, 3), [0.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn the_highest_rate_is_that_of_a_step() {
        let of = |kind, options, warmup_steps, total_steps| {
            Schedule { kind, options, learning_rate: 2.0, warmup_steps, total_steps }.highest()
        };
        let (none, stable) = (Options::default(), ScheduleKind::WarmupStableDecay);
        assert_eq!(of(ScheduleKind::Linear, none, 3, 6), 2.0);
        assert_eq!(of(ScheduleKind::Linear, none, 8, 4), 0.75);
        assert_eq!(of(ScheduleKind::Cosine, none, 9_999, 1_000_000), 2.0);
        assert_eq!(of(ScheduleKind::InverseSqrt, Options { timescale: Some(3), ..none }, 5, 9), 2.0);
        let decay = |steps| Options { num_decay_steps: Some(steps), ..none };
        assert_eq!(of(stable, decay(6), 0, 6), 2.0);
        // The decay of 50 steps has two left.
        let late = of(stable, decay(50), 0, 2);
        assert!((late - (1.0 + (PI * 48.0 / 50.0).cos())).abs() < 1e-12, "{late}");
        let rising = Options { min_lr: Some(8.0), ..none };
        assert!(of(ScheduleKind::CosineWithMinLr, rising, 0, 10) > 7.0);
    }

    #[test]
    fn a_warmup_longer_than_the_run_never_decays_or_divides_by_zero() {
        assert_eq!(lrs(ScheduleKind::Linear, 8, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert!(lrs(ScheduleKind::Cosine, 4, 4).iter().all(|lr| lr.is_finite()));
        assert_eq!(lrs(ScheduleKind::Linear, 0, 0), [0.0]);
    }
}
