//! An OpenAI-compatible endpoint as a judge of pairs of answers.
//!
//! Every pair is judged in both orders, or in one that is drawn, because judges prefer a place (Zheng et al. 2023, arXiv
//! 2306.05685); how much they do is reported. Each request and its answer is one line of a transcript, on the disk before the
//! next step. A question that has a verdict there is not asked again, so a run that was stopped, or failed, continues.

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
use std::sync::Mutex;

use exchange::{Endpoint, Exchange};
use limits::{Budget, held};
use prompt::{Question, Questions};
use queue::Queue;
use verdicts::Shown;

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
    /// The questions that this judge has asked itself, whose verdicts are not those of an earlier run, and those whose verdicts
    /// were counted as such.
    asked: Mutex<BTreeSet<String>>,
}

/// The questions of a comparison, each with whether its answers are shown in the other order than they are given in.
type Orders = Vec<(bool, Question)>;

impl Judge {
    /// A judge that keeps its transcript in this file.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] for settings that are not possible, or a key that is not there.
    pub fn new(config: JudgeConfig, transcript: &Path) -> Result<Self> {
        config.check()?;
        config.key()?;
        Ok(Self { config, transcript: transcript.to_path_buf(), asked: Mutex::default() })
    }

    /// Judges all comparisons, of which those that are in the transcript are not asked again.
    ///
    /// # Errors
    /// [`crate::error::Error::Judge`] if the endpoint gave no answer after all attempts, refuses to, or a limit is reached: what
    /// was judged stays in the transcript, and another call goes on. Or if the transcript is damaged or cannot be written.
    pub fn judge(&self, comparisons: &[Comparison]) -> Result<Judged> {
        let pairs = self.questions(comparisons)?;
        let questions = || pairs.iter().flatten().map(|(_, question)| question);
        let (transcript, exchanges) = Ledger::<Exchange>::open(&self.transcript)?;
        let wanted: BTreeSet<&str> = questions().map(|question| question.id.as_str()).collect();
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
        let open: Vec<&Question> = questions()
            .filter(|question| !known.contains_key(&question.id) && seen.insert(&question.id))
            .collect();
        let endpoint = Endpoint::new(&self.config)?;
        let (total, before) = (wanted.len(), known.len());
        let from_transcript = {
            let mut asked = held(&self.asked);
            let earlier = known.keys().filter(|id| !asked.contains(*id)).count();
            asked.extend(known.keys().cloned());
            earlier
        };
        let queue = Queue::new(&self.config, &endpoint, &budget, transcript);
        let found = queue.run(&open, (before, total))?;
        held(&self.asked).extend(found.keys().cloned());
        known.extend(found);
        let spent = budget.spent();
        let shown = |(turned, question): &(bool, Question)| Shown {
            turned: *turned,
            verdict: known.get(&question.id).copied(),
        };
        let shown: Vec<Vec<Shown>> = pairs.iter().map(|orders| orders.iter().map(shown).collect()).collect();
        Ok(Judged::of(&shown, from_transcript, spent.requests, spent.cost))
    }

    /// The questions of each comparison: in the given order and in the other one, or in the one that is drawn.
    fn questions(&self, comparisons: &[Comparison]) -> Result<Vec<Orders>> {
        let questions = Questions::of(&self.config)?;
        let question = |pair: &Comparison, [first, second]: [usize; 2]| -> Result<(bool, Question)> {
            let question = questions.question(&pair.prompt, &pair.answers[first], &pair.answers[second])?;
            Ok((first > second, question))
        };
        let of_pair = |pair: &Comparison| -> Result<Orders> {
            match self.config.both_orders {
                true => [[0, 1], [1, 0]].into_iter().map(|order| question(pair, order)).collect(),
                false => Ok(vec![question(pair, pair.drawn_order())?]),
            }
        };
        comparisons.iter().map(of_pair).collect()
    }
}
