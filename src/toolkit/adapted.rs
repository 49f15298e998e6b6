//! A base with adapters, for scoring, evaluation and sampling.

use std::path::{Path, PathBuf};

use super::records::{Pairs, Reader};
use super::{AdapterUse, Base, TrainedWith};
use crate::data::{ChatTokenizer, Dataset, Message, Sources, Wanted};
use crate::error::{Error, Result};
use crate::eval::preference::{self, Evaluation};
use crate::generate::{Completion, Limits, Request, SamplingConfig, complete_all};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::objective::{Needs, Objective, Records, Scored};
use crate::ranks::{ALONE, Ranks};
use crate::train::trainer::{check_pairs, check_positions};
use crate::trainable::Policy;

/// Records in a batch; no figure depends on it.
const BATCH: usize = 4;

/// A base with its adapters, which act together. The reference is the base alone.
pub struct Adapted<'a> {
    /// The base.
    pub base: &'a Base,
    /// Its tokenizer, with the template that the adapter was trained with.
    pub tokenizer: ChatTokenizer,
    /// The base, ready to compute.
    pub decoder: Decoder,
    /// Its adapters.
    pub policy: Policy,
    /// The paths of its adapters.
    pub paths: Vec<PathBuf>,
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
    /// As [`Base::with_adapter`]; or if they do not fit each other, see [`Policy::stacked`].
    pub fn with_adapters(
        &self,
        paths: &[impl AsRef<Path>],
        trained: TrainedWith,
        force: bool,
    ) -> Result<Adapted<'_>> {
        let decoder = self.decoder()?;
        let purpose = AdapterUse { score: true, force, ..AdapterUse::default() };
        let adapters =
            paths.iter().map(|path| self.adapter_for(path.as_ref(), purpose)).collect::<Result<Vec<_>>>()?;
        let policy = Policy::stacked(adapters)?;
        let trained = trained.fitting(policy.trained.score().is_some())?;
        let tokenizer = self.tokenizer(trained.data.chat_template.as_deref())?;
        let tokenizer = tokenizer.on(trained.data.chat_template_date.as_deref())?;
        let paths = paths.iter().map(|path| path.as_ref().to_path_buf()).collect();
        Ok(Adapted { base: self, tokenizer, decoder, policy, paths, trained })
    }
}

impl Adapted<'_> {
    /// Whether it is a reward model, which gives rewards and no log-probs.
    pub fn is_reward(&self) -> bool {
        self.policy.trained.score().is_some()
    }

    /// Records as token ids, with the template and the truncation of the training.
    ///
    /// # Errors
    /// As [`Base::pairs`].
    pub fn pairs(&self, source: &str) -> Result<Pairs> {
        let sources = Sources::from(source);
        let config = self.trained.data.reading(sources.clone());
        let triples = |objective: &Objective| objective.needs().records == Records::Triples;
        let wanted = match self.is_reward() {
            true => Wanted::Rewarded,
            // With the gold answers of the pairs that have one.
            false if self.trained.objective.as_ref().is_some_and(triples) => Wanted::Everything,
            false => Wanted::Whole,
        };
        Reader { spec: self.decoder.spec(), tokenizer: &self.tokenizer }.read_as(&sources, &config, wanted)
    }

    /// The completions of every record with their log-probs under policy and reference, or with the rewards of a reward
    /// model; `group` counts from 0.
    ///
    /// # Errors
    /// If a log-prob or a reward is not a finite number.
    pub fn score(&self, pairs: &Pairs) -> Result<Vec<Scored>> {
        let mut all = Vec::new();
        self.score_each(&pairs.examples, |first, scored| {
            all.extend(scored.iter().map(|it| Scored { group: first + it.group, ..*it }));
            Ok(())
        })?;
        Ok(all)
    }

    /// As [`Adapted::score`], in batches: `each` receives the completions of a batch and the index of its first record.
    ///
    /// # Errors
    /// As [`Adapted::score`], and the errors of `each`.
    pub fn score_each(
        &self,
        examples: &Dataset,
        each: impl FnMut(usize, &[Scored]) -> Result<()>,
    ) -> Result<()> {
        self.score_on(&ALONE, examples, each)
    }

    /// As [`Adapted::score_each`], by several ranks: each scores some of the batches, and `each` is called on rank 0.
    ///
    /// # Errors
    /// As [`Adapted::score_each`], or if a rank has failed.
    pub fn score_on(
        &self,
        ranks: &Ranks,
        examples: &Dataset,
        each: impl FnMut(usize, &[Scored]) -> Result<()>,
    ) -> Result<()> {
        let (rewards, reference) = (self.is_reward(), !self.is_reward());
        let needs = Needs { rewards, reference, ..Needs::PAIRS };
        let of_reference = |packed: &_| {
            let logps = || self.decoder.logps(packed, &self.policy, Pass::Reference);
            reference.then(logps).transpose()
        };
        let both = (&self.decoder, &self.policy);
        preference::score(ranks, both, examples, (BATCH, needs), of_reference, each)
    }

    /// The loss by which its rewards are computed: that of the training. Adapters that note none have DPO's with its usual β,
    /// and a warning names the remedy.
    pub fn objective(&self, remedy: &str) -> Objective {
        if self.paths.is_empty() {
            return self.trained.objective.clone().unwrap_or_default();
        }
        let paths: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        self.trained.objective_of(&paths.join(" with "), remedy)
    }

    /// Accuracy, margins and rewards, by the loss that the adapter was trained with (DPO if it is not known).
    ///
    /// # Errors
    /// As [`Adapted::score`].
    pub fn evaluate(&self, pairs: &Pairs) -> Result<Evaluation> {
        self.evaluate_by(&self.objective("name the loss with evaluate_by"), pairs)
    }

    /// The same by another loss.
    ///
    /// # Errors
    /// As [`Adapted::score`].
    pub fn evaluate_by(&self, objective: &Objective, pairs: &Pairs) -> Result<Evaluation> {
        let none = || Error::Data("nothing was evaluated".into());
        self.evaluate_on(&ALONE, objective, pairs)?.ok_or_else(none)
    }

    /// As [`Adapted::evaluate_by`], by several ranks; only rank 0 has the figures.
    ///
    /// # Errors
    /// As [`Adapted::score`], or if a rank has failed.
    pub fn evaluate_on(
        &self,
        ranks: &Ranks,
        objective: &Objective,
        pairs: &Pairs,
    ) -> Result<Option<Evaluation>> {
        let needs = objective.needs();
        if needs.records == Records::Pairs {
            check_pairs(&pairs.examples)?;
        }
        check_positions((&pairs.examples, &Dataset::default()), needs, self.decoder.spec().max_positions)?;
        let rewards = needs.rewards;
        if rewards != self.is_reward() {
            return Err(Error::Config(if rewards {
                "the loss is reward, and the adapter is no reward model; name one, or another loss".into()
            } else {
                "the adapter is a reward model, and the loss needs log-probs; the loss of a reward model is reward".to_string()
            }));
        }
        let reference = |packed: &_| {
            let logps = || self.decoder.logps(packed, &self.policy, Pass::Reference);
            (!rewards).then(logps).transpose()
        };
        let both = (&self.decoder, &self.policy);
        preference::evaluate_on(ranks, both, (&pairs.examples, BATCH), objective, reference)
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
        self.policy.trained.refuse_score("generation")?;
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
