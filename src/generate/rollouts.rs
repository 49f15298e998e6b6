//! Completions of many prompts, decoded together: a sequence that is finished leaves, and the next one enters.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::completion::{Completion, Limits, Request};
use super::groups::Groups;
use super::growing::{Growing, room};
use super::sequences::{Model, Sequences};
use crate::data::ChatTokenizer;
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// Number of sequences decoded at once, on the processor and on a device.
const TOGETHER: usize = 64;

/// Rows of prompts that may enter in one step, on the processor and on a device. A longer prompt enters alone.
const ENTERING: (usize, usize) = (1024, 8192);

/// The completions of requests, in the order in which they finish.
///
/// Up to [`Rollouts::together`] sequences are decoded at once. Each completion is that of decoding its request alone with
/// the same seed: tokens, text and log-probs do not depend on the other requests, on the number decoded at once or on the
/// number of threads. The policy is borrowed while they are drawn; collect them before it is trained further.
///
/// After an error the iterator ends.
pub struct Rollouts<'a> {
    model: Model<'a>,
    tokenizer: &'a ChatTokenizer,
    limits: Limits,
    together: usize,
    /// The number of completions of each request.
    counts: Vec<usize>,
    /// Requests that have not been begun.
    waiting: VecDeque<(usize, Request)>,
    /// Prompts that were computed and of which completions have not been begun.
    prompts: VecDeque<Prompt>,
    active: Vec<Active>,
    sequences: Sequences,
    done: VecDeque<Completion>,
}

/// A prompt that was computed.
struct Prompt {
    number: usize,
    request: Request,
    /// The place of its keys.
    place: usize,
    /// The logits after its last token.
    logits: Vec<f32>,
    /// Completions that were begun.
    begun: usize,
    /// Maximum number of new tokens.
    most: usize,
}

/// A completion in progress and the place of its keys.
struct Active {
    place: usize,
    growing: Growing,
}

impl<'a> Rollouts<'a> {
    /// Completes `requests` under one of the two policies formed by a base model and its adapters.
    ///
    /// # Errors
    /// Returns an error if a prompt is empty.
    pub fn new(
        decoder: &'a Decoder,
        tokenizer: &'a ChatTokenizer,
        requests: Vec<Request>,
        (policy, pass): (&'a Policy, Pass),
        limits: &Limits,
    ) -> Result<Self> {
        for request in &requests {
            room(decoder, (policy, pass), &request.prompt, limits)?;
        }
        Ok(Self {
            model: Model { decoder, policy, pass },
            tokenizer,
            limits: limits.clone(),
            together: TOGETHER,
            counts: requests.iter().map(|request| request.completions).collect(),
            waiting: requests
                .into_iter()
                .enumerate()
                .filter(|(_, request)| request.completions > 0)
                .collect(),
            prompts: VecDeque::new(),
            active: Vec::new(),
            sequences: Sequences::new(decoder),
            done: VecDeque::new(),
        })
    }

    /// Decodes at most `sequences` at once, at least one. More need more memory; no result depends on it.
    pub fn together(self, sequences: usize) -> Self {
        Self { together: sequences.max(1), ..self }
    }

    /// Returns all completions, by request and index.
    ///
    /// # Errors
    /// Returns an error if a prompt does not fit the model or gives logits that are not finite.
    pub fn in_order(self) -> Result<Vec<Completion>> {
        let mut all = self.collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|completion| (completion.prompt, completion.index));
        Ok(all)
    }

    /// Returns the completions of one request after the other, each a group by index. Completions that finish before
    /// those of earlier requests are kept until then.
    pub fn by_request(mut self) -> Groups<Self> {
        let counts = std::mem::take(&mut self.counts);
        Groups::new(self, counts)
    }

    /// Whether nothing is left to compute.
    fn is_finished(&self) -> bool {
        self.waiting.is_empty() && self.prompts.is_empty() && self.active.is_empty()
    }

    /// Computes the next token of all active sequences, and the prompts for which there is room.
    fn step(&mut self) -> Result<()> {
        let entering = self.entering()?;
        let mut next: Vec<(usize, &[u32])> =
            self.active.iter().map(|active| (active.place, active.growing.next())).collect();
        next.extend(entering.iter().map(|prompt| (prompt.place, &prompt.request.prompt[..])));
        if !next.is_empty() {
            let logits = self.sequences.step(&next, self.model)?;
            let vocab = logits.len() / next.len();
            let (of_active, of_prompts) = logits.split_at(self.active.len() * vocab);
            for (mut prompt, logits) in entering.into_iter().zip(of_prompts.chunks_exact(vocab.max(1))) {
                prompt.logits = logits.to_vec();
                self.prompts.push_back(prompt);
            }
            self.take(of_active)?;
        }
        self.begin()
    }

    /// Takes the prompts that enter in this step: as many as there is room for completions.
    fn entering(&mut self) -> Result<Vec<Prompt>> {
        let begun: usize = self.prompts.iter().map(|prompt| prompt.request.completions - prompt.begun).sum();
        let (mut free, mut rows) = (self.together.saturating_sub(self.active.len() + begun), 0);
        let most = if self.model.decoder.is_on_device() { ENTERING.1 } else { ENTERING.0 };
        let mut entering = Vec::new();
        while free > 0 {
            let Some((number, request)) = self.waiting.pop_front() else { break };
            rows += request.prompt.len();
            if rows > most && !entering.is_empty() {
                self.waiting.push_front((number, request));
                break;
            }
            let Model { decoder, policy, pass } = self.model;
            let most = room(decoder, (policy, pass), &request.prompt, &self.limits)?;
            free = free.saturating_sub(request.completions);
            let place = self.sequences.open(self.model.decoder);
            entering.push(Prompt { number, request, place, logits: Vec::new(), begun: 0, most });
        }
        Ok(entering)
    }

    /// Samples a token of each active sequence from its row of logits. Sequences that it ends leave.
    fn take(&mut self, logits: &[f32]) -> Result<()> {
        let (tokenizer, limits) = (self.tokenizer, &self.limits);
        let vocab = logits.len() / self.active.len().max(1);
        let ended = self
            .active
            .par_iter_mut()
            .zip(logits.par_chunks_exact(vocab.max(1)))
            .map(|(active, logits)| active.growing.take(logits, tokenizer, limits))
            .collect::<Result<Vec<_>>>()?;
        let mut ended = ended.into_iter();
        let (sequences, done) = (&mut self.sequences, &mut self.done);
        self.active.retain(|active| match ended.next().flatten() {
            None => true,
            Some(completion) => {
                sequences.close(active.place);
                done.push_back(completion);
                false
            }
        });
        Ok(())
    }

    /// Begins completions of the prompts that were computed, while there is room.
    fn begin(&mut self) -> Result<()> {
        while self.active.len() < self.together {
            let Some(mut prompt) = self.prompts.pop_front() else { break };
            let at = (prompt.number, prompt.begun);
            let mut growing =
                Growing::new(at, prompt.request.prompt.len(), &prompt.request.sampling, prompt.most);
            prompt.begun += 1;
            let ended = growing.take(&prompt.logits, self.tokenizer, &self.limits)?;
            let is_last = prompt.begun == prompt.request.completions;
            match ended {
                Some(completion) => {
                    self.done.push_back(completion);
                    if is_last {
                        self.sequences.close(prompt.place);
                    }
                }
                None if is_last => self.active.push(Active { place: prompt.place, growing }),
                None => {
                    let place = self.sequences.fork(prompt.place, self.model)?;
                    self.active.push(Active { place, growing });
                }
            }
            if !is_last {
                self.prompts.push_front(prompt);
            }
        }
        Ok(())
    }
}

impl Iterator for Rollouts<'_> {
    type Item = Result<Completion>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.done.is_empty() {
            if self.is_finished() {
                return None;
            }
            if let Err(error) = self.step() {
                self.waiting.clear();
                self.prompts.clear();
                self.active.clear();
                return Some(Err(error));
            }
        }
        self.done.pop_front().map(Ok)
    }
}

/// Completes a prompt under one of the two policies, by itself.
///
/// # Errors
/// Returns an error if the prompt is empty or longer than the model's positions.
pub fn complete(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    request: &Request,
    (policy, pass): (&Policy, Pass),
    limits: &Limits,
) -> Result<Completion> {
    let most = room(decoder, (policy, pass), &request.prompt, limits)?;
    let mut growing = Growing::new((0, 0), request.prompt.len(), &request.sampling, most);
    let mut cache = decoder.new_cache();
    let mut logits = decoder.step(&request.prompt, &mut cache, policy, pass)?;
    loop {
        if let Some(completion) = growing.take(&logits, tokenizer, limits)? {
            return Ok(completion);
        }
        logits = decoder.step(growing.next(), &mut cache, policy, pass)?;
    }
}

/// Completes all requests, by request and index.
///
/// # Errors
/// As [`Rollouts::in_order`].
pub fn complete_all(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    requests: &[Request],
    side: (&Policy, Pass),
    limits: &Limits,
) -> Result<Vec<Completion>> {
    Rollouts::new(decoder, tokenizer, requests.to_vec(), side, limits)?.in_order()
}
