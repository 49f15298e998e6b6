//! What a merged model is measured on: pairs, and texts that the policy itself writes, where an adapter's effect is at home.

use std::path::Path;

use serde_yaml::Value as Yaml;

use super::side::Side;
use crate::adapter::read;
use crate::cli::MergeArgs;
use crate::data::{ChatTokenizer, Example, Kind, Message, Origin};
use crate::error::Result;
use crate::generate::{Sampler, SamplingConfig};
use crate::model::pass::Pass;
use crate::random::Stream;
use crate::toolkit::{Base, embedded};

/// Pairs, at most; they are taken from all over the file.
const PAIRS: usize = 32;
/// Prompts that are continued, at most; of a model so large that a token takes a second, half.
const PROMPTS: usize = 8;
const LARGE: usize = 4 << 30;
/// Records that are read to choose from.
const READ: usize = 4096;
/// Tokens of a continuation.
const CONTINUED: usize = 24;
/// Tokens of a completion that are looked at, and of its prompt: logits of the whole vocabulary are kept for each.
const COMPLETION: usize = 48;
const PROMPT: usize = 256;

/// Prompts to continue where there are no pairs: questions, a story, a list, code.
const TEXTS: [&str; PROMPTS] = [
    "The",
    "What is the capital of France?",
    "Once upon a time",
    "I think that",
    "How do I make a good cup of tea?",
    "Here is a list of",
    "Write a short letter to a friend.",
    "def main():",
];

/// The sequences, and a description of them.
pub(super) struct Probe {
    /// Scored together; each with its completions.
    pub pairs: Vec<Example>,
    /// Each with two completions of the policy's: the likeliest tokens, and a sample.
    pub texts: Vec<Example>,
    /// For the report.
    pub described: String,
}

impl Probe {
    /// Takes the pairs of `--data`, else those of the run that the adapter belongs to, else only texts; in the base's chat
    /// template, or in the one that takes its place.
    ///
    /// # Errors
    /// If `--data` cannot be read, or the policy gives numbers that are not finite.
    pub fn new(base: &Base, policy: Side, args: &MergeArgs, chat_template: Option<&str>) -> Result<Self> {
        let tokenizer = match &args.data {
            Some(_) => Some(base.tokenizer(chat_template)?),
            None => base.tokenizer(chat_template).ok(),
        };
        let has_template = chat_template.is_some();
        let (pairs, name) = match (&args.data, &tokenizer) {
            (Some(data), Some(tokenizer)) => (pairs(base, tokenizer, data)?, data.clone()),
            (None, Some(tokenizer)) => {
                of_run(base, (tokenizer, has_template), &args.adapter).unwrap_or_default()
            }
            (_, None) => Default::default(),
        };
        let mut prompts: Vec<Vec<u32>> = pairs.iter().map(|pair| pair.prompt.clone()).collect();
        prompts.dedup();
        if prompts.is_empty() {
            prompts = tokenizer.as_ref().map(plain_prompts).unwrap_or_default();
        }
        prompts.retain(|prompt| !prompt.is_empty() && prompt.len() + 1 < base.spec.max_positions);
        prompts.retain(|prompt| prompt.iter().all(|token| (*token as usize) < base.spec.vocab_size));
        if prompts.is_empty() {
            prompts = random_prompts(base.spec.vocab_size);
        }
        prompts.truncate(if base.bytes() > LARGE { PROMPTS / 2 } else { PROMPTS });
        let ends = tokenizer.as_ref().map(|tokenizer| base.eos(tokenizer)).unwrap_or_default();
        let texts = prompts.iter().enumerate().map(|(i, prompt)| continued(policy, prompt, &ends, i as u64));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let own = format!("{} texts of the adapter's own", 2 * texts.len());
        let described =
            if pairs.is_empty() { own } else { format!("{} pairs of {name} and {own}", pairs.len()) };
        Ok(Self { pairs, texts, described })
    }
}

/// Returns pairs from all over the beginning of a file, cut to what is kept of each.
fn pairs(base: &Base, tokenizer: &ChatTokenizer, source: &str) -> Result<Vec<Example>> {
    let found = base.first_pairs_in(tokenizer, source, READ)?.examples;
    let step = found.len().div_ceil(PAIRS).max(1);
    let mut examples = found.gather(&(0..found.len()).step_by(step).collect::<Vec<_>>())?;
    for example in &mut examples {
        example.completions.iter_mut().for_each(|tokens| tokens.truncate(COMPLETION));
        let cut = example.prompt.len().saturating_sub(PROMPT);
        example.prompt.drain(..cut);
    }
    Ok(examples)
}

/// The pairs of the run that wrote this adapter: `RUN/adapter` beside `RUN/config.yaml`. `None` if there is no such
/// run, or its data no longer exist: nobody asked for them. The tokenizer may have the template of the run.
fn of_run(
    base: &Base,
    (tokenizer, has_template): (&ChatTokenizer, bool),
    adapters: &[impl AsRef<Path>],
) -> Option<(Vec<Example>, String)> {
    let adapter = read::located(adapters.first()?.as_ref()).ok()?;
    let directory = adapter.parent()?;
    let text = std::fs::read_to_string(directory.join("config.yaml")).ok()?;
    let config: Yaml = serde_yaml::from_str(&text).ok()?;
    let data = config.get("data")?;
    // In the base's template, the records of a run that has its own would be other texts.
    let own_template = data.get("chat_template").is_some_and(|template| !template.is_null());
    let name = [data.get("eval"), data.get("train")].into_iter().flatten().find_map(Yaml::as_str)?;
    let there = Path::new(name).is_file() || embedded::path(name).ok().flatten().is_some();
    if own_template && !has_template || !there {
        return None;
    }
    Some((pairs(base, tokenizer, name).ok()?, name.to_string()))
}

/// Short texts, as they are or as a user's turn.
fn plain_prompts(tokenizer: &ChatTokenizer) -> Vec<Vec<u32>> {
    let encode = |(i, text): (usize, &&str)| {
        if tokenizer.template().is_some() && i % 2 == 1 {
            let rendered = tokenizer.render(&[Message::new("user", text)], true).ok()?;
            return tokenizer.encode(&rendered, false).ok();
        }
        tokenizer.encode(text, true).ok()
    };
    TEXTS.iter().enumerate().filter_map(encode).collect()
}

fn random_prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    let stream = Stream::new(0, "merge verification");
    let prompt = |i: usize| (0..3).map(|j| stream.child(i as u64).below(j, vocabulary) as u32).collect();
    (0..PROMPTS).map(prompt).collect()
}

/// A prompt continued by the policy: the likeliest tokens, then a sample.
fn continued(policy: Side, prompt: &[u32], ends: &[u32], seed: u64) -> Result<Example> {
    let Side { decoder, adapters } = policy;
    let write = |temperature: f64| -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(&SamplingConfig { temperature, top_k: None, top_p: None, seed });
        let most = CONTINUED.min(decoder.spec().max_positions.saturating_sub(prompt.len()));
        let mut cache = decoder.new_cache();
        let mut logits = decoder.step(prompt, &mut cache, adapters, Pass::Policy)?;
        let mut tokens = Vec::new();
        while tokens.len() < most {
            let token = sampler.next(&logits)?;
            tokens.push(token);
            if ends.contains(&token) || tokens.len() == most {
                break;
            }
            logits = decoder.step(&[token], &mut cache, adapters, Pass::Policy)?;
        }
        Ok(tokens)
    };
    let completions = vec![write(0.0)?, write(1.0)?];
    Ok(Example {
        prompt: prompt.to_vec(),
        completions,
        kind: Kind::PAIR,
        origin: Origin::new("probe", seed as usize + 1),
    })
}
