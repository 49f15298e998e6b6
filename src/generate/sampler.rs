//! From logits to a token, with candle-transformers' `LogitsProcessor`.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};

use crate::error::Result;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Sample from the k most likely tokens.
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens with this total probability.
    pub top_p: Option<f64>,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Temperatures below this count as 0: they only tell apart logits that are equal to within rounding.
const COLDEST: f64 = 1e-6;

/// A seeded sampler.
pub struct Sampler {
    processor: LogitsProcessor,
}

impl Sampler {
    /// A sampler at the start of its stream.
    pub fn new(config: &SamplingConfig) -> Self {
        let SamplingConfig { temperature, top_k, top_p, seed } = *config;
        let sampling = match (top_k, top_p) {
            _ if temperature < COLDEST => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        Self { processor: LogitsProcessor::from_sampling(seed, sampling) }
    }

    /// The next token.
    ///
    /// # Errors
    /// If the logits are not a distribution (NaN).
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        Ok(self.processor.sample(&Tensor::from_slice(logits, logits.len(), &Device::Cpu)?)?)
    }
}
