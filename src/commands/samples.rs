//! Completions before and after training, and the share of favourable words in them: what the quickstart shows.

use serde::Deserialize;

use crate::data::ChatTokenizer;
use crate::error::{Error, Result};
use crate::generate::{Limits, Request, SamplingConfig, complete_all};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::reward::TinyReviews;
use crate::toolkit::embedded;
use crate::trainable::Policy;

/// Held-out prompts and how they are completed.
pub struct Samples {
    prompts: Vec<String>,
    reward: TinyReviews,
    limits: Limits,
}

/// Completions of all prompts.
pub struct Drawn {
    /// One text a prompt.
    pub texts: Vec<String>,
    /// Favourable words among the judging ones, all texts together.
    pub reward: f64,
}

impl Samples {
    /// Returns the first `count` of the embedded held-out prompts.
    ///
    /// # Errors
    /// If they cannot be unpacked.
    pub fn embedded(count: usize, eos: Vec<u32>) -> Result<Self> {
        let read = |file: &str| -> Result<String> {
            let name = format!("{}/{file}", embedded::NAME);
            let path = embedded::path(&name)?.unwrap_or_else(|| name.into());
            std::fs::read_to_string(&path).map_err(Error::read(&path))
        };
        #[derive(Deserialize)]
        struct Prompt {
            prompt: String,
        }
        let broken = |e: serde_json::Error| Error::Data(format!("the embedded data: {e}"));
        let prompts = read("prompts.jsonl")?
            .lines()
            .take(count)
            .map(|line| serde_json::from_str::<Prompt>(line).map(|p| p.prompt).map_err(broken))
            .collect::<Result<_>>()?;
        let reward = TinyReviews::new()?;
        Ok(Self { prompts, reward, limits: Limits { max_new_tokens: 60, eos, stop: Vec::new() } })
    }

    /// The prompts.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// Completes every prompt at temperature 1, each with its own seed.
    ///
    /// # Errors
    /// If a prompt does not fit the model.
    pub fn draw(&self, decoder: &Decoder, tokenizer: &ChatTokenizer, side: (&Policy, Pass)) -> Result<Drawn> {
        let request = |(i, prompt): (usize, &String)| {
            let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: i as u64 };
            Ok(Request::new(tokenizer.encode(prompt, true)?, sampling))
        };
        let requests = self.prompts.iter().enumerate().map(request).collect::<Result<Vec<_>>>()?;
        let drawn = complete_all(decoder, tokenizer, &requests, side, &self.limits)?;
        let texts: Vec<String> = drawn.into_iter().map(|completion| completion.text).collect();
        let counts = texts.iter().map(|text| self.reward.count(text));
        let (good, all) = counts.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
        Ok(Drawn { texts, reward: good as f64 / all.max(1) as f64 })
    }
}
