//! Learning rate schedules: pure functions of the step, as in `transformers.optimization.get_scheduler`.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of the learning rate schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Linear decay to 0 after the warm-up.
    #[default]
    Linear,
    /// Cosine decay to 0 over half a period after the warm-up.
    Cosine,
    /// Constant, without warm-up.
    Constant,
    /// Constant after the warm-up.
    ConstantWithWarmup,
}

/// A learning rate for every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Optimizer steps in the warm-up.
    pub warmup_steps: u64,
    /// Optimizer steps in the run.
    pub total_steps: u64,
}

impl Schedule {
    /// Returns the learning rate of the 0-based optimizer step `step`. With a warm-up, the rate of step 0 is 0.
    pub fn lr(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if self.kind == ScheduleKind::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            ScheduleKind::Cosine => {
                // transformers' cosine rises again past the end (num_cycles 0.5); a run never asks for such a step.
                let progress = (step - self.warmup_steps) as f64 / decay_steps;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lrs(kind: ScheduleKind, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let schedule = Schedule { kind, learning_rate: 2.0, warmup_steps, total_steps };
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
    fn a_warmup_longer_than_the_run_never_decays_or_divides_by_zero() {
        assert_eq!(lrs(ScheduleKind::Linear, 8, 4), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert!(lrs(ScheduleKind::Cosine, 4, 4).iter().all(|lr| lr.is_finite()));
        assert_eq!(lrs(ScheduleKind::Linear, 0, 0), [0.0]);
    }
}
