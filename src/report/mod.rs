//! Events of a run, and the sinks that receive them. A new sink is one file with an `impl Sink`.

mod activity;
mod append;
mod console;
mod held_out;
pub mod html;
mod journal;
mod jsonl;
mod lines;
mod live;
pub mod log;
mod mlflow;
mod mlflow_files;
pub mod plot;
mod protobuf;
mod samples;
pub mod screen;
pub mod sheet;
mod sparkline;
mod tensorboard;
mod tracker;
mod trackers;
mod trackio;
mod wandb;
mod wrap;

pub use activity::{Activity, hide_activities, show_activities};
pub use console::{Console, Verbosity};
pub use held_out::{HeldOut, HeldOutFile, LengthGroup, WrongPair, held_out};
pub use journal::{Journal, warnings};
pub use jsonl::Jsonl;
pub use lines::Lines;
pub use samples::{Progressed, SampleLog, samples};
pub use sparkline::sparkline;
pub use tensorboard::TensorBoard;
pub use tracker::Described;
pub use trackers::{TrackerName, check_tracker, open_tracker};

use crate::error::Result;

/// An event. Steps are completed optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// A run starts (step 0) or continues.
    Start {
        /// Steps done before this process.
        step: u64,
        /// Total steps of the run.
        total_steps: u64,
    },
    /// A step is done.
    Progress {
        /// Steps done.
        step: u64,
        /// Mean loss of this step, nats.
        loss: f64,
        /// `rewards/accuracies` of this step, in [0, 1], if its records are comparisons.
        accuracy: Option<f64>,
        /// Packed tokens per second.
        tokens_per_second: f64,
    },
    /// Mean values of training, or (names that begin with `eval_`) of an evaluation.
    Metrics {
        /// Steps done.
        step: u64,
        /// Epochs done.
        epoch: f64,
        /// Names (TRL's) and values, in the order in which they are written.
        values: &'a [(&'a str, f64)],
    },
    /// A message about the current activity.
    Note(&'a str),
    /// A message that is printed even with `-q`.
    Warning(&'a str),
    /// The held-out records are about to be evaluated.
    Evaluation {
        /// Steps done.
        step: u64,
    },
    /// What an evaluation says of single pairs.
    HeldOut(&'a HeldOut),
    /// A prompt was completed, to show what the run teaches.
    Sample {
        /// Steps after which the policy is this one.
        step: u64,
        /// The number of the prompt, from 0.
        number: usize,
        /// Its text.
        prompt: &'a str,
        /// The completion.
        completion: &'a str,
    },
    /// A checkpoint is about to be written: what was logged before it must not be lost.
    Checkpoint,
    /// The checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// Its size.
        bytes: u64,
    },
    /// The run is over.
    End {
        /// Whether a signal ended it before its last step.
        interrupted: bool,
    },
}

/// A receiver of events.
pub trait Sink: Send {
    /// Its name in warnings.
    fn name(&self) -> &str;

    /// Takes one event; a sink ignores events that it has no use for.
    ///
    /// # Errors
    /// Any failure to write. The [`Reporter`] continues regardless.
    fn record(&mut self, event: &Event) -> Result<()>;
}

/// Passes every event to every sink. A failure of a sink is reported once, through the others, and the sink is tried
/// again with the next event: a full disk must neither end a run nor print a line at every step.
#[derive(Default)]
pub struct Reporter {
    sinks: Vec<Entry>,
}

struct Entry {
    sink: Box<dyn Sink>,
    failed: bool,
}

impl Reporter {
    /// A reporter without sinks, for a silent run of a library or a test.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sink.
    #[must_use]
    pub fn with(mut self, sink: impl Sink + 'static) -> Self {
        self.sinks.push(Entry { sink: Box::new(sink), failed: false });
        self
    }

    /// As [`Reporter::with`], of a sink whose type is not known.
    #[must_use]
    pub fn with_boxed(mut self, sink: Box<dyn Sink>) -> Self {
        self.sinks.push(Entry { sink, failed: false });
        self
    }

    /// Passes `event` to every sink.
    pub fn record(&mut self, event: &Event) {
        let mut warnings = Vec::new();
        for entry in &mut self.sinks {
            if let Err(error) = entry.sink.record(event) {
                if !entry.failed {
                    warnings.push(format!("{}: {error}; the run continues without it", entry.sink.name()));
                }
                entry.failed = true;
            }
        }
        for warning in &warnings {
            for entry in &mut self.sinks {
                // There is nowhere left to report a failure to report.
                let _ = entry.sink.record(&Event::Warning(warning));
            }
        }
    }

    /// Shorthand for [`Event::Note`].
    pub fn note(&mut self, text: &str) {
        self.record(&Event::Note(text));
    }

    /// Shorthand for [`Event::Warning`].
    pub fn warn(&mut self, text: &str) {
        self.record(&Event::Warning(text));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Error;

    struct Broken;
    impl Sink for Broken {
        fn name(&self) -> &str {
            "broken.jsonl"
        }
        fn record(&mut self, _: &Event) -> Result<()> {
            Err(Error::Data("disk full".into()))
        }
    }

    struct Kept(Arc<Mutex<Vec<String>>>);
    impl Sink for Kept {
        fn name(&self) -> &str {
            "kept"
        }
        fn record(&mut self, event: &Event) -> Result<()> {
            self.0.lock().unwrap().push(format!("{event:?}"));
            Ok(())
        }
    }

    #[test]
    fn a_failing_sink_is_told_of_once_and_stops_nobody() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mut reporter = Reporter::new().with(Broken).with(Kept(kept.clone()));
        for step in 1..=3 {
            reporter.record(&Event::Metrics { step, epoch: 0.5, values: &[("loss", 0.6)] });
        }
        let kept = kept.lock().unwrap();
        assert_eq!(kept.iter().filter(|event| event.starts_with("Metrics")).count(), 3);
        let warnings: Vec<_> = kept.iter().filter(|event| event.starts_with("Warning")).collect();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("broken.jsonl: disk full"), "{warnings:?}");
    }
}
