//! Asks the open questions, several at a time, and writes every exchange down.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::config::JudgeConfig;
use super::exchange::{Endpoint, Exchange, Next};
use super::limits::{Budget, Pace, held, sleep_until};
use super::prompt::Question;
use crate::error::{Error, Result};
use crate::files::Ledger;
use crate::report::Activity;

/// A run stops if none of the first so many questions got an answer that can be read: the others would not either.
const HOPELESS: usize = 5;

/// Doublings of the wait between attempts.
const MOST_DOUBLINGS: u32 = 6;

/// What all threads share.
pub(super) struct Queue<'a> {
    config: &'a JudgeConfig,
    endpoint: &'a Endpoint<'a>,
    budget: &'a Budget,
    pace: Pace,
    /// Verdicts that were known before.
    before: usize,
    state: Mutex<State>,
    next: AtomicUsize,
}

struct State {
    transcript: Ledger<Exchange>,
    verdicts: BTreeMap<String, f64>,
    /// Questions without an answer that can be read, and the reason of the last one.
    unreadable: usize,
    reason: String,
    /// Why the run stops.
    stopped: Option<Stop>,
}

/// Why a run stops.
enum Stop {
    /// The judge gives no answer, or a limit is reached.
    Judge(String),
    /// The transcript cannot be written.
    Other(Error),
}

impl<'a> Queue<'a> {
    pub fn new(
        config: &'a JudgeConfig,
        endpoint: &'a Endpoint<'a>,
        budget: &'a Budget,
        transcript: Ledger<Exchange>,
    ) -> Self {
        let state = State {
            transcript,
            verdicts: BTreeMap::new(),
            unreadable: 0,
            reason: String::new(),
            stopped: None,
        };
        Self {
            config,
            endpoint,
            budget,
            pace: Pace::new(config),
            before: 0,
            state: Mutex::new(state),
            next: AtomicUsize::new(0),
        }
    }

    /// Asks all questions and returns the verdicts by their ids. `before` of `total` verdicts were known.
    ///
    /// # Errors
    /// As [`super::Judge::judge`].
    pub fn run(
        mut self,
        open: &[&Question],
        (before, total): (usize, usize),
    ) -> Result<BTreeMap<String, f64>> {
        self.before = before;
        let activity = Activity::new("asking the judge", open.len() as u64);
        thread::scope(|scope| {
            for _ in 0..self.config.concurrency.min(open.len()) {
                scope.spawn(|| {
                    while let Some(question) = open.get(self.next.fetch_add(1, Ordering::SeqCst)) {
                        if !self.answered(question) {
                            return;
                        }
                        activity.advance(1);
                    }
                });
            }
        });
        let state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.stopped {
            None => {
                if state.unreadable > 0 {
                    log::warn!(
                        "{} question(s) to the judge have no verdict; the reason of the last one: {}",
                        state.unreadable,
                        state.reason
                    );
                }
                Ok(state.verdicts)
            }
            Some(Stop::Other(error)) => Err(error),
            Some(Stop::Judge(reason)) => Err(Error::Judge(format!(
                "{reason}; {} of {total} verdicts are kept in {}, and another run goes on with the others",
                before + state.verdicts.len(),
                state.transcript.path().display()
            ))),
        }
    }

    fn is_stopped(&self) -> bool {
        held(&self.state).stopped.is_some()
    }

    /// The first reason is the one that is told.
    fn stop(&self, why: Stop) {
        held(&self.state).stopped.get_or_insert(why);
    }

    /// Asks a question until there is a verdict or no attempt is left. Returns whether the run goes on.
    fn answered(&self, question: &Question) -> bool {
        for attempt in 1..=self.config.attempts {
            if !self.pace.wait(|| self.is_stopped()) {
                return false;
            }
            let reserved = self.endpoint.most_cost(question);
            if let Err(limit) = self.budget.reserve(reserved) {
                self.stop(Stop::Judge(limit));
                return false;
            }
            let (exchange, next) = self.endpoint.ask(question, attempt);
            self.budget.settle(reserved, exchange.cost);
            if !self.written(&exchange) {
                return false;
            }
            let problem = exchange.problem.unwrap_or_default();
            let is_last = attempt == self.config.attempts;
            match next {
                Next::Judged => return true,
                Next::Never => {
                    self.stop(Stop::Judge(format!(
                        "{}: {problem}{}",
                        self.config.endpoint,
                        said(exchange.answer)
                    )));
                    return false;
                }
                Next::Unreadable if is_last => return self.left_out(&problem),
                Next::Refused => return self.left_out(&format!("{problem}{}", said(exchange.answer))),
                Next::Later(_) if is_last => {
                    let attempts = self.config.attempts;
                    self.stop(Stop::Judge(format!(
                        "{}: {problem}{}; gave up at attempt {attempt} of {attempts}",
                        self.config.endpoint,
                        said(exchange.answer)
                    )));
                    return false;
                }
                Next::Unreadable => {
                    log::debug!("the judge's answer cannot be read ({problem}); asking again");
                }
                Next::Later(pause) => self.back_off(attempt, pause, &problem),
            }
        }
        true
    }

    /// Writes an exchange down. Returns whether that succeeded.
    fn written(&self, exchange: &Exchange) -> bool {
        let mut state = held(&self.state);
        if let Err(error) = state.transcript.push(exchange) {
            state.stopped.get_or_insert(Stop::Other(error));
            return false;
        }
        if let Some(verdict) = exchange.verdict {
            state.verdicts.insert(exchange.id.clone(), verdict);
        }
        true
    }

    /// A question has no answer, or none that can be read. Returns whether the run goes on.
    fn left_out(&self, problem: &str) -> bool {
        let mut state = held(&self.state);
        state.unreadable += 1;
        state.reason = problem.to_string();
        if self.before == 0 && state.unreadable >= HOPELESS && state.verdicts.is_empty() {
            let reason = format!(
                "none of the first {} questions got an answer that can be read: {}; see the transcript, and change prompt, \
                 max_tokens or model",
                state.unreadable, state.reason
            );
            state.stopped.get_or_insert(Stop::Judge(reason));
            return false;
        }
        true
    }

    fn back_off(&self, attempt: u32, pause: Option<Duration>, problem: &str) {
        let doubled = self.config.backoff * f64::from(1u32 << (attempt - 1).min(MOST_DOUBLINGS));
        let wait = pause.unwrap_or_default().max(Duration::from_secs_f64(doubled));
        log::info!("{}: {problem}; trying again in {:.1} s", self.config.endpoint, wait.as_secs_f64());
        if let Some(pause) = pause {
            // It is asked of all.
            self.pace.hold(pause);
        }
        sleep_until(Instant::now() + wait, || self.is_stopped());
    }
}

/// What a server said, in one short line.
fn said(answer: Option<String>) -> String {
    const MOST: usize = 200;
    let text = answer.unwrap_or_default();
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MOST).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}
