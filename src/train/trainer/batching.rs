//! The micro-batches of a step.

use super::Trainer;
use crate::data::{Example, PackedBatch};
use crate::error::Result;
use crate::objective::Metrics;
use crate::train::batches;

impl Trainer {
    /// Returns the micro-batches of the next step and the index of their first pair. Accumulation does not cross the
    /// end of an epoch.
    pub(super) fn next_batches(
        &mut self,
        metrics: &mut Metrics,
    ) -> Result<(Vec<PackedBatch>, Option<usize>)> {
        let lists = self.sampler.next_step(self.setup.config.gradient_accumulation_steps);
        // What is drawn does not come again.
        let (parts, first) = match self.setup.rollouts.is_some() {
            true => (self.drawn_pairs(&lists, metrics)?, None),
            false => {
                let parts = lists.iter().map(|indices| self.setup.train.gather(indices));
                (parts.collect::<Result<_>>()?, lists.iter().flatten().next().copied())
            }
        };
        let most = self.setup.config.max_tokens_per_batch;
        let (needs, limit) = (self.setup.objective.needs(), self.setup.train.limit());
        let packed = |part: &[&Example]| PackedBatch::for_objective(part, needs, limit);
        let mut batches = Vec::new();
        for examples in &parts {
            let examples: Vec<&Example> = examples.iter().collect();
            batches.extend(batches::by_tokens(&examples, most).into_iter().map(packed));
        }
        Ok((batches, first))
    }
}
