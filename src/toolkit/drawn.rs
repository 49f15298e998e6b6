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
    ledger: Ledger<Line>,
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
        let (ledger, lines) = Ledger::<Line>::open(path)?;
        let known = lines.into_iter().map(|line| (line.key, line.completions)).collect();
        Ok(Self { ledger, known })
    }

    /// Returns the completions of each prompt, of which those that are kept are not drawn again.
    ///
    /// # Errors
    /// If a prompt does not fit the model, or the file cannot be written; what was drawn before is kept.
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
        // Of equal requests one is drawn.
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (i, key) in keys.iter().enumerate().filter(|(_, key)| !self.known.contains_key(*key)) {
            open.entry(key).or_insert(i);
        }
        let mut open: Vec<usize> = open.into_values().collect();
        open.sort_unstable();
        if !open.is_empty() {
            let what = format!("completing prompts ({}, temperature {})", by.name, how.sampling.temperature);
            let activity = Activity::new(what, open.len() as u64);
            let side = (&adapted.policy, by.pass);
            let wanted = open.iter().map(|i| requests[*i].clone()).collect();
            let groups =
                Rollouts::new(&adapted.decoder, &adapted.tokenizer, wanted, side, &limits)?.by_request();
            for (group, i) in groups.zip(open) {
                let completions: Vec<Kept> = group?.iter().map(kept).collect();
                let line = Line {
                    key: keys[i].clone(),
                    policy: by.name.into(),
                    temperature: how.sampling.temperature,
                    prompt: prompts[i].text.clone(),
                    completions,
                };
                self.ledger.push(&line)?;
                self.known.insert(line.key, line.completions);
                activity.advance(1);
            }
        }
        let found = keys.iter().map(|key| self.known.get(key).cloned());
        found.collect::<Option<Vec<_>>>().ok_or_else(|| Error::Model("a prompt was not completed".into()))
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
