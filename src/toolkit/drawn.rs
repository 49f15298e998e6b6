//! Completions that are drawn once and kept: a command that is stopped, or run again, goes on with those it has.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Adapted;
use super::prompts::Prompt;
use crate::data::{Example, Kind, Origin, PackedBatch};
use crate::error::{Error, Result};
use crate::files::Ledger;
use crate::generate::{Completion, Limits, Request, Rollouts, SamplingConfig};
use crate::model::pass::Pass;
use crate::ranks::{ALONE, Ranks};
use crate::report::Activity;
use crate::train::reference;

/// Prompts whose reference log-probs are computed at once; no figure depends on it.
const BATCH: usize = 4;

/// A completion as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The text.
    pub text: String,
    /// The tokens that were drawn, with the end-of-text token if there is one.
    pub tokens: Vec<u32>,
    /// Its log-prob in nats under the policy that drew it, at temperature 1.
    pub logp: f64,
}

/// The completions of a prompt by one policy: a line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The hash of all that the completions depend on.
    key: String,
    /// Who drew them, for readers.
    policy: String,
    temperature: f64,
    prompt: String,
    completions: Vec<Kept>,
}

/// The kept completions of a file.
#[derive(Debug)]
pub struct Drawer {
    /// Of rank 0.
    ledger: Option<Ledger<Line>>,
    ranks: Ranks,
    known: BTreeMap<String, Vec<Kept>>,
}

/// How completions are drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// How tokens are chosen; prompt and completion change the seed.
    pub sampling: SamplingConfig,
    /// Completions of each prompt.
    pub completions: usize,
    /// Most new tokens.
    pub max_new_tokens: usize,
}

/// A policy: an adapted base, and whether its adapter is on.
#[derive(Clone, Copy)]
pub struct Drawn<'a> {
    /// The base and its adapters.
    pub adapted: &'a Adapted<'a>,
    /// Which of its two policies.
    pub pass: Pass,
    /// Its name in the file and in messages.
    pub name: &'a str,
}

impl Drawer {
    /// Opens or creates a file of completions.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(&ALONE, path)
    }

    /// As [`Drawer::open`], for several ranks that draw together. Rank 0 alone reads and writes the file.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_on(ranks: &Ranks, path: &Path) -> Result<Self> {
        let ranks = ranks.clone();
        if !ranks.is_first() {
            return Ok(Self { ledger: None, ranks, known: BTreeMap::new() });
        }
        let (ledger, lines) = Ledger::<Line>::open(path)?;
        let known = lines.into_iter().map(|line| (line.key, line.completions)).collect();
        Ok(Self { ledger: Some(ledger), ranks, known })
    }

    /// Returns the completions of each prompt, of which those that are kept are not drawn again. Of several ranks each draws
    /// for some of the prompts, and all have the same in the end.
    ///
    /// # Errors
    /// If a prompt does not fit the model, the file cannot be written, or a rank has failed; what was drawn before is kept.
    pub fn draw(&mut self, by: Drawn, prompts: &[Prompt], how: &Drawing) -> Result<Vec<Vec<Kept>>> {
        let identity = identity(by)?;
        let adapted = by.adapted;
        adapted.policy.trained.refuse_score("drawing completions")?;
        let limits = Limits {
            max_new_tokens: how.max_new_tokens,
            eos: adapted.base.eos(&adapted.tokenizer),
            stop: Vec::new(),
        };
        let request = |(i, prompt): (usize, &Prompt)| Request {
            prompt: prompt.tokens.clone(),
            sampling: how.sampling.for_prompt(i),
            completions: how.completions,
        };
        let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
        let keys: Vec<String> = requests.iter().map(|request| key(&identity, request, &limits)).collect();
        let open = self.ranks.told(|| Ok(self.open_among(&keys)))?;
        if !open.is_empty() {
            let what = format!("completing prompts ({}, temperature {})", by.name, how.sampling.temperature);
            let activity = Activity::new(what, open.len() as u64);
            let side = (&adapted.policy, by.pass);
            let own = self.ranks.items(open.len()).map(|item| requests[open[item]].clone()).collect();
            let mut groups =
                Rollouts::new(&adapted.decoder, &adapted.tokenizer, own, side, &limits)?.by_request();
            let work = |_| Ok(groups.next().transpose()?.unwrap_or_default().iter().map(kept).collect());
            let Self { ledger, ranks, known } = self;
            ranks.in_turn(open.len(), work, |item, completions: Vec<Kept>| {
                let line = Line {
                    key: keys[open[item]].clone(),
                    policy: by.name.into(),
                    temperature: how.sampling.temperature,
                    prompt: prompts[open[item]].text.clone(),
                    completions,
                };
                ledger.as_mut().map(|ledger| ledger.push(&line)).transpose()?;
                known.insert(line.key, line.completions);
                activity.advance(1);
                Ok(())
            })?;
        }
        self.ranks.told(|| {
            let found = keys.iter().map(|key| self.known.get(key).cloned());
            let none = || Error::Model("a prompt was not completed".into());
            found.collect::<Option<Vec<_>>>().ok_or_else(none)
        })
    }

    /// The requests that are not known, in order. Of equal ones there is the first.
    fn open_among(&self, keys: &[String]) -> Vec<usize> {
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, key) in keys.iter().enumerate().filter(|(_, key)| !self.known.contains_key(*key)) {
            open.entry(key).or_insert(i);
        }
        let mut open: Vec<usize> = open.into_values().collect();
        open.sort_unstable();
        open
    }
}

fn kept(completion: &Completion) -> Kept {
    Kept { text: completion.text.clone(), tokens: completion.drawn(), logp: completion.logp() }
}

/// Returns a hash of the weights, the adapters that are on, and how they are computed.
///
/// # Errors
/// If the base's files cannot be read.
pub fn identity(Drawn { adapted, pass, .. }: Drawn) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let fingerprint = adapted.base.fingerprint()?;
    hasher.update(reference::policy(&fingerprint, &adapted.decoder, &adapted.policy).as_bytes());
    if pass == Pass::Policy {
        for adapter in adapted.policy.trained.iter() {
            hasher.update(adapter.identity().as_bytes());
        }
        hasher.update(bytemuck::cast_slice(adapted.policy.trained.values()));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn key(identity: &str, request: &Request, limits: &Limits) -> String {
    let Request { prompt, sampling, completions } = request;
    let described = format!("{identity} {sampling:?} {completions} {limits:?} {prompt:?}");
    blake3::hash(described.as_bytes()).to_hex()[..32].to_string()
}

/// Returns the log-prob of each completion under the reference, in nats, and shows how far it is.
///
/// # Errors
/// If a completion does not fit the model.
pub fn reference_logps(
    adapted: &Adapted,
    prompts: &[Prompt],
    completions: &[Vec<Kept>],
) -> Result<Vec<Vec<f64>>> {
    let activity = Activity::new("scoring completions by the reference", prompts.len() as u64);
    let mut found = Vec::with_capacity(prompts.len());
    for (prompts, completions) in prompts.chunks(BATCH).zip(completions.chunks(BATCH)) {
        found.extend(logps_of_reference(adapted, prompts, completions)?);
        activity.advance(prompts.len() as u64);
    }
    Ok(found)
}

/// As [`reference_logps`], without a display.
///
/// # Errors
/// As [`reference_logps`].
pub fn logps_of_reference(
    adapted: &Adapted,
    prompts: &[Prompt],
    completions: &[Vec<Kept>],
) -> Result<Vec<Vec<f64>>> {
    let mut found = Vec::with_capacity(prompts.len());
    for (prompts, completions) in prompts.chunks(BATCH).zip(completions.chunks(BATCH)) {
        let example = |(prompt, drawn): (&Prompt, &Vec<Kept>)| Example {
            prompt: prompt.tokens.clone(),
            completions: drawn.iter().map(|kept| kept.tokens.clone()).collect(),
            kind: Kind::Text,
            origin: Origin::new("samples", 1),
        };
        let examples: Vec<Example> = prompts.iter().zip(completions).map(example).collect();
        let packed = PackedBatch::new(&examples.iter().collect::<Vec<_>>());
        let mut logps = adapted.decoder.logps(&packed, &adapted.policy, Pass::Reference)?.into_iter();
        found.extend(completions.iter().map(|drawn| logps.by_ref().take(drawn.len()).collect::<Vec<f64>>()));
    }
    Ok(found)
}
