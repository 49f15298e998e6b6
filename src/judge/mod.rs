//! An OpenAI-compatible endpoint as a judge of pairs of answers.
//!
//! Every pair is judged in both orders, because judges prefer a place (Zheng et al. 2023, arXiv 2306.05685); how much they do
//! is reported. Each request and its answer is one line of a transcript, on the disk before the next step. A question that
//! has a verdict there is not asked again, so a run that was stopped, or failed, continues.

mod answer;
mod config;
mod exchange;
mod limits;
mod prompt;
mod queue;
mod template;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use exchange::{Endpoint, Exchange};
use limits::Budget;
use prompt::{Question, Questions};
use queue::Queue;

pub use config::JudgeConfig;
pub use prompt::Comparison;
pub use verdicts::{Judged, Position, Verdict};

use crate::error::Result;
use crate::files::Ledger;

/// A judge and its transcript.
#[derive(Debug)]
pub struct Judge {
    config: JudgeConfig,
    transcript: PathBuf,
}

impl Judge {
    /// A judge that keeps its transcript in this file.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] for settings that are not possible, or a key that is not there.
    pub fn new(config: JudgeConfig, transcript: &Path) -> Result<Self> {
        config.check()?;
        config.key()?;
        Ok(Self { config, transcript: transcript.to_path_buf() })
    }

    /// Judges all comparisons, of which those that are in the transcript are not asked again.
    ///
    /// # Errors
    /// [`crate::error::Error::Judge`] if the endpoint gave no answer after all attempts, refuses to, or a limit is reached: what
    /// was judged stays in the transcript, and another call goes on. Or if the transcript is damaged or cannot be written.
    pub fn judge(&self, comparisons: &[Comparison]) -> Result<Judged> {
        let questions = self.questions(comparisons)?;
        let (transcript, exchanges) = Ledger::<Exchange>::open(&self.transcript)?;
        let wanted: BTreeSet<&str> =
            questions.iter().flatten().map(|question| question.id.as_str()).collect();
        let mut known: BTreeMap<String, f64> = exchanges
            .iter()
            .filter(|exchange| wanted.contains(exchange.id.as_str()))
            .filter_map(|exchange| Some((exchange.id.clone(), exchange.verdict?)))
            .collect();
        let budget = Budget::new(
            &self.config,
            exchanges.len() as u64,
            exchanges.iter().map(|exchange| exchange.cost).sum(),
        );
        // The same question twice is asked once.
        let mut seen = BTreeSet::new();
        let open: Vec<&Question> = questions
            .iter()
            .flatten()
            .filter(|question| !known.contains_key(&question.id) && seen.insert(&question.id))
            .collect();
        let endpoint = Endpoint::new(&self.config)?;
        let (total, before) = (wanted.len(), known.len());
        let queue = Queue::new(&self.config, &endpoint, &budget, transcript);
        known.extend(queue.run(&open, (before, total))?);
        let spent = budget.spent();
        let ids =
            questions.iter().map(|orders| orders.iter().map(|question| known.get(&question.id).copied()));
        Ok(Judged::of(ids.map(Iterator::collect).collect(), before, spent.requests, spent.cost))
    }

    /// The questions of each comparison: in the given order, and in the other one.
    fn questions(&self, comparisons: &[Comparison]) -> Result<Vec<Vec<Question>>> {
        let questions = Questions::of(&self.config)?;
        let orders: &[[usize; 2]] = if self.config.both_orders { &[[0, 1], [1, 0]] } else { &[[0, 1]] };
        let question = |Comparison { prompt, answers }: &Comparison, [first, second]: [usize; 2]| {
            questions.question(prompt, &answers[first], &answers[second])
        };
        comparisons.iter().map(|pair| orders.iter().map(|order| question(pair, *order)).collect()).collect()
    }
}
