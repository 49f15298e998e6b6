//! Completions of a few prompts that show what a run teaches: before its first step, now and then, and of its adapter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use crate::data::{ChatTokenizer, Dataset, Message};
use crate::error::{Error, Problems, Result};
use crate::generate::{Limits, Request, SamplingConfig, complete_streaming};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// Tokens of a completion, at most.
const LENGTH: usize = 64;

/// More prompts than these are more than anybody reads, and each takes time.
const MOST_PROMPTS: usize = 64;

/// Records that are searched for different prompts.
const SEARCHED: usize = 256;

/// The value of `train.sample_prompts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of held-out prompts (0 for none) or a list of texts")]
pub enum SamplePrompts {
    /// The first prompts of the held-out records, else of the training records.
    First(usize),
    /// These, as messages of the user if there is a chat template.
    Texts(Vec<String>),
}

impl Default for SamplePrompts {
    fn default() -> Self {
        Self::First(3)
    }
}

impl SamplePrompts {
    /// Adds what is wrong with the value.
    pub(super) fn check(&self, problems: &mut Problems) {
        let count = match self {
            Self::First(count) => *count,
            Self::Texts(texts) => {
                let empty = texts.iter().any(|text| text.trim().is_empty());
                problems.require(!empty, || {
                    "train.sample_prompts holds an empty text; write a prompt, or leave it out".into()
                });
                texts.len()
            }
        };
        problems.require(count <= MOST_PROMPTS, || {
            format!("train.sample_prompts are {count}; there may be {MOST_PROMPTS} at most")
        });
    }
}

/// The prompts of a run, and how they are completed: greedily, so that two completions of a prompt differ because of the
/// adapter alone.
pub struct Samples {
    prompts: Vec<Prompt>,
    tokenizer: Arc<ChatTokenizer>,
    limits: Limits,
}

/// A prompt that is completed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Its text, without special tokens.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

impl Samples {
    /// Chooses the prompts. Records without a prompt, and those with the prompt of an earlier one, are passed over.
    ///
    /// # Errors
    /// If a record cannot be read, or a text cannot be encoded.
    pub fn new(
        wanted: &SamplePrompts,
        (train, eval): (&Dataset, &Dataset),
        tokenizer: Arc<ChatTokenizer>,
        eos: Vec<u32>,
    ) -> Result<Self> {
        let prompts = match wanted {
            SamplePrompts::First(count) => {
                first(if eval.is_empty() { train } else { eval }, *count, &tokenizer)?
            }
            SamplePrompts::Texts(texts) => {
                texts.iter().map(|text| encoded(text, &tokenizer)).collect::<Result<_>>()?
            }
        };
        let limits = Limits { max_new_tokens: LENGTH, eos, stop: Vec::new() };
        Ok(Self { prompts, tokenizer, limits })
    }

    /// The prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// If the tokenizer does not know one.
    pub fn text(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true)
    }

    /// Completes a prompt; `None` if `stop` was set meanwhile.
    ///
    /// # Errors
    /// If the prompt does not fit the model, or its numbers overflow.
    pub fn complete(
        &self,
        prompt: &Prompt,
        decoder: &Decoder,
        policy: &Policy,
        stop: &AtomicU8,
    ) -> Result<Option<String>> {
        let is_stopped = || stop.load(Ordering::Relaxed) != 0;
        if is_stopped() {
            return Ok(None);
        }
        let sampling = SamplingConfig { temperature: 0.0, top_k: None, top_p: None, seed: 0 };
        let request = Request::new(prompt.tokens.clone(), sampling);
        let pass = if policy.is_adapted() { Pass::Policy } else { Pass::Reference };
        let mut go_on = |_: &str| {
            if is_stopped() { Err(Error::Train("stopped by a signal".into())) } else { Ok(()) }
        };
        let found =
            complete_streaming(decoder, &self.tokenizer, &request, (policy, pass), &self.limits, &mut go_on);
        match found {
            Err(_) if is_stopped() => Ok(None),
            found => found.map(|completion| Some(completion.text)),
        }
    }
}

/// The first different prompts of the records.
fn first(records: &Dataset, count: usize, tokenizer: &ChatTokenizer) -> Result<Vec<Prompt>> {
    let mut prompts: Vec<Prompt> = Vec::new();
    for index in 0..records.len().min(SEARCHED) {
        if prompts.len() == count {
            break;
        }
        let Some(example) = records.get(index)? else { break };
        let is_new = prompts.iter().all(|prompt| prompt.tokens != example.prompt);
        if !example.prompt.is_empty() && is_new {
            let text = tokenizer.decode(&example.prompt, true)?;
            prompts.push(Prompt { text, tokens: example.prompt });
        }
    }
    Ok(prompts)
}

fn encoded(text: &str, tokenizer: &ChatTokenizer) -> Result<Prompt> {
    let tokens = match tokenizer.template() {
        None => tokenizer.encode(text, true)?,
        Some(_) => tokenizer.encode(&tokenizer.render(&[Message::new("user", text)], true)?, false)?,
    };
    Ok(Prompt { text: text.to_string(), tokens })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Kind, Origin};

    fn example(prompt: Vec<u32>) -> Example {
        Example { prompt, completions: vec![vec![2], vec![3]], kind: Kind::PAIR, origin: Origin::new("t", 1) }
    }

    #[test]
    fn prompts_are_the_first_different_ones_of_the_held_out_records() {
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let tokenizer = Arc::new(ChatTokenizer::load(model, None).unwrap());
        let train: Dataset = vec![example(vec![1])].into();
        let eval: Dataset = [vec![], vec![2], vec![2], vec![3, 1], vec![4]].map(example).to_vec().into();
        let of = |wanted, eval: &Dataset| {
            let found = Samples::new(&wanted, (&train, eval), tokenizer.clone(), Vec::new()).unwrap();
            found.prompts().iter().map(|prompt| prompt.tokens.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of(SamplePrompts::First(2), &eval), [vec![2], vec![3, 1]]);
        assert_eq!(of(SamplePrompts::First(9), &Dataset::default()), [vec![1]]);
        assert!(of(SamplePrompts::First(0), &eval).is_empty());
    }

    #[test]
    fn values_are_a_number_or_texts() {
        let read = |text: &str| serde_yaml::from_str::<SamplePrompts>(text);
        assert_eq!(read("0").unwrap(), SamplePrompts::First(0));
        assert_eq!(read("[a, b]").unwrap(), SamplePrompts::Texts(vec!["a".into(), "b".into()]));
        assert!(read("-1").is_err() && read("{a: b}").is_err());
        let wrong = |value: SamplePrompts| {
            let mut problems = Problems::default();
            value.check(&mut problems);
            problems.finish().unwrap_err().to_string()
        };
        assert!(wrong(SamplePrompts::Texts(vec![" ".into()])).contains("an empty text"));
        assert!(wrong(SamplePrompts::First(65)).contains("are 65; there may be 64"));
    }
}
