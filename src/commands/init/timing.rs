//! The speed of a run on this machine: two steps are trained and thrown away.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::output::say;
use crate::config::RunConfig;
use crate::error::Result;
use crate::files::{CacheChoice, TemporaryDirectory};
use crate::report::{Event, Reporter, Sink};
use crate::toolkit::{Base, Ready, Run};
use crate::train::run_dir::{Opening, RunDir};
use crate::train::samples::SamplePrompts;

/// Steps that are timed; the first one reads the weights and does not count.
const STEPS: u64 = 2;

/// Keeps the speed of the last step.
#[derive(Clone, Default)]
struct Speed(Arc<Mutex<Option<f64>>>);

impl Sink for Speed {
    fn name(&self) -> &str {
        "timing"
    }

    fn record(&mut self, event: &Event) -> Result<()> {
        if let Event::Progress { tokens_per_second, .. } = event {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(*tokens_per_second);
        }
        Ok(())
    }
}

/// Packed tokens per second, reference pass included; `None`, with a notice, if the steps fail.
pub(super) fn tokens_per_second(config: &RunConfig, base: &Base) -> Option<f64> {
    measured(config, base).unwrap_or_else(|error| {
        say(&format!("the time of a step is not measured: {error}"));
        None
    })
}

fn measured(config: &RunConfig, base: &Base) -> Result<Option<f64>> {
    let place = TemporaryDirectory::new(&std::env::temp_dir())?;
    let mut config = config.clone();
    let train = &mut config.train;
    config.data.limit = Some(2 * train.per_device_train_batch_size * train.gradient_accumulation_steps);
    config.data.eval = None;
    config.output_dir = place.path().join("run");
    train.max_steps = Some(STEPS);
    train.reference_cache = CacheChoice::Off;
    train.save_minutes = None;
    train.sample_prompts = SamplePrompts::First(0);
    let run = Run::read(config, base, false)?;
    let directory = RunDir::open(&run.config.output_dir, Opening::Fresh)?;
    let Ready { mut trainer, .. } = run.ready(&directory, Arc::default(), false)?;
    let speed = Speed::default();
    trainer.run(&mut Reporter::new().with(speed.clone()))?;
    let found = *speed.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(found)
}
