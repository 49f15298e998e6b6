//! What a run warns of after a step.

use super::Trainer;
use crate::train::rollouts::masks_truncated;
use crate::train::step::Outcome;
use crate::train::watch::Completing;

impl Trainer {
    /// Returns the warnings that are due after a step with this outcome.
    pub(super) fn watched(&mut self, outcome: &Outcome) -> Vec<String> {
        let metrics = &outcome.metrics;
        let (step, total_steps) = (self.state.step, self.total_steps);
        let mut warnings = self.state.watch.step(metrics, &self.setup.watch);
        if self.setup.rollouts.is_some() {
            let completing = Completing {
                masks: self.setup.objective.on_policy().is_some_and(masks_truncated),
                is_last: step == total_steps,
            };
            warnings.extend(self.state.watch.completed(metrics, completing));
        } else {
            // Where all rewards are tied, a gradient of 0 is said otherwise.
            warnings.extend(self.state.watch.gradient(outcome.grad_norm));
        }
        warnings
    }
}
