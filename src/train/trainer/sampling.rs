//! The completions that a run shows.

use super::{Setup, Trainer};
use crate::report::{Event, Reporter};

impl Trainer {
    /// Completes the prompts of the run with the policy, which is that of `step`. A failure is a warning: what a run shows
    /// must not end it.
    pub(super) fn sample(&mut self, step: u64, reporter: &mut Reporter) {
        let Setup { decoder, policy, samples, stop, ranks, .. } = &mut self.setup;
        if !ranks.is_first() {
            return;
        }
        let Some(samples) = samples else { return };
        if let Err(error) = decoder.fetch(policy) {
            return reporter.warn(&format!("no samples after step {step}: {error}"));
        }
        for (number, prompt) in samples.prompts().iter().enumerate() {
            match samples.complete(prompt, decoder, policy, stop) {
                Ok(None) => return,
                Ok(Some(completion)) => reporter.record(&Event::Sample {
                    step,
                    number,
                    prompt: &prompt.text,
                    completion: &completion,
                }),
                Err(error) => return reporter.warn(&format!("no samples after step {step}: {error}")),
            }
        }
    }
}
