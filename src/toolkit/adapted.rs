//! A base with adapters, for scoring, evaluation and sampling.

use std::path::Path;

use super::records::{Pairs, Reader};
use super::{Base, TrainedWith};
use crate::data::{ChatTokenizer, Message, Sources};
use crate::error::{Error, Result};
use crate::eval::preference::{self, Evaluation};
use crate::generate::{Completion, Limits, Request, SamplingConfig, complete_all};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::{Objective, Scored};
use crate::trainable::{Adapters, Policy};

/// Records in a batch; no figure depends on it.
const BATCH: usize = 4;

/// A base with its adapters, stacked into one. The reference is the base alone.
pub struct Adapted<'a> {
    /// The base.
    pub base: &'a Base,
    /// Its tokenizer, with the template that the adapter was trained with.
    pub tokenizer: ChatTokenizer,
    /// The base, ready to compute.
    pub decoder: Decoder,
    /// Its adapters.
    pub policy: Policy,
    /// How the adapter was trained.
    pub trained: TrainedWith,
}

impl Base {
    /// The base with an adapter.
    ///
    /// # Errors
    /// If the adapter is missing, damaged, or another base's.
    pub fn with_adapter(&self, path: impl AsRef<Path>) -> Result<Adapted<'_>> {
        let path = path.as_ref();
        self.with_adapters(&[path], TrainedWith::of(path)?, false)
    }

    /// Returns the base with several adapters stacked, or with none; `trained` gives the template and truncation. With
    /// `force`, adapters of other bases are accepted.
    ///
    /// # Errors
    /// As [`Base::with_adapter`]; or if they adapt modules of different shapes.
    pub fn with_adapters(
        &self,
        paths: &[impl AsRef<Path>],
        trained: TrainedWith,
        force: bool,
    ) -> Result<Adapted<'_>> {
        let decoder = self.decoder()?;
        let adapters =
            paths.iter().map(|path| self.adapter(path.as_ref(), force)).collect::<Result<Vec<_>>>()?;
        let policy = Policy::of(Adapters::stacked(&adapters)?);
        let tokenizer = self.tokenizer(trained.data.chat_template.as_deref())?;
        let tokenizer = tokenizer.on(trained.data.chat_template_date.as_deref())?;
        Ok(Adapted { base: self, tokenizer, decoder, policy, trained })
    }
}

impl Adapted<'_> {
    /// Records as token ids, with the template and the truncation of the training.
    ///
    /// # Errors
    /// As [`Base::pairs`].
    pub fn pairs(&self, source: &str) -> Result<Pairs> {
        let sources = Sources::from(source);
        let config = self.trained.data.reading(sources.clone());
        Reader { spec: self.decoder.spec(), tokenizer: &self.tokenizer }.read(&sources, &config)
    }

    /// The completions of every record with their log-probs under policy and reference; `group` counts from 0.
    ///
    /// # Errors
    /// If a log-prob is not a finite number.
    pub fn score(&self, pairs: &Pairs) -> Result<Vec<Scored>> {
        let mut all = Vec::new();
        let reference = |packed: &_| self.decoder.logps(packed, &self.policy, Pass::Reference).map(Some);
        preference::score(
            (&self.decoder, &self.policy),
            &pairs.examples,
            BATCH,
            reference,
            |first, scored| {
                all.extend(scored.iter().map(|it| Scored { group: first + it.group, ..*it }));
                Ok(())
            },
        )?;
        Ok(all)
    }

    /// Accuracy, margins and rewards, by the loss that the adapter was trained with (DPO if it is not known).
    ///
    /// # Errors
    /// As [`Adapted::score`].
    pub fn evaluate(&self, pairs: &Pairs) -> Result<Evaluation> {
        self.evaluate_by(&self.trained.objective.clone().unwrap_or_default(), pairs)
    }

    /// The same by another loss.
    ///
    /// # Errors
    /// As [`Adapted::score`].
    pub fn evaluate_by(&self, objective: &Objective, pairs: &Pairs) -> Result<Evaluation> {
        let reference = |packed: &_| self.decoder.logps(packed, &self.policy, Pass::Reference).map(Some);
        preference::evaluate((&self.decoder, &self.policy), &pairs.examples, BATCH, objective, reference)
    }

    /// Completes a prompt: as the user's message if there is a chat template, else as it is.
    ///
    /// # Errors
    /// If the template refuses the prompt, or it does not fit the model.
    pub fn generate(
        &self,
        prompt: &str,
        max_new_tokens: usize,
        sampling: SamplingConfig,
    ) -> Result<Completion> {
        let prompt = match self.tokenizer.template() {
            None => self.tokenizer.encode(prompt, true)?,
            Some(_) => {
                let text = self.tokenizer.render(&[Message::new("user", prompt)], true)?;
                self.tokenizer.encode(&text, false)?
            }
        };
        let limits = Limits { max_new_tokens, eos: self.base.eos(&self.tokenizer), stop: Vec::new() };
        let pass = if self.policy.is_adapted() { Pass::Policy } else { Pass::Reference };
        let request = Request::new(prompt, sampling);
        let mut found =
            complete_all(&self.decoder, &self.tokenizer, &[request], (&self.policy, pass), &limits)?;
        found.pop().ok_or_else(|| Error::Model("nothing was generated".into()))
    }
}
