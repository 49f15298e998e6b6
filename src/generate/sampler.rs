//! Sampling a token from logits: greedily, or from the tempered distribution limited to its most likely tokens.

use rand::SeedableRng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::StdRng;

use crate::error::{Error, Result};
use crate::ops::simd::{self, vectorised};
use crate::ops::token_logps;
use crate::random::Stream;

/// How the next token is selected.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Softmax temperature; 0 always selects the most likely token.
    pub temperature: f64,
    /// Samples from the k most likely tokens.
    pub top_k: Option<usize>,
    /// Samples from the most likely tokens with this share of the probability (Holtzman et al. 2019, arXiv 1904.09751), after
    /// `top_k`.
    pub top_p: Option<f64>,
    /// Seed of the random number generator.
    pub seed: u64,
}

impl SamplingConfig {
    /// Whether always the most likely token is chosen.
    pub fn is_greedy(&self) -> bool {
        self.temperature < COLDEST
    }

    /// The settings of prompt `index` of several: the same, with a seed of its own. Prompt 0 keeps the seed.
    pub fn for_prompt(&self, index: usize) -> Self {
        Self { seed: named(self.seed, "prompt", index), ..self.clone() }
    }

    /// The settings of completion `index` of a prompt: the same, with a seed of its own. Completion 0 keeps the seed.
    pub fn for_completion(&self, index: usize) -> Self {
        Self { seed: named(self.seed, "completion", index), ..self.clone() }
    }
}

/// A seed named by an index; index 0 keeps the seed itself, so that one prompt with one completion is sampled with it.
fn named(seed: u64, name: &str, index: usize) -> u64 {
    match index {
        0 => seed,
        index => Stream::new(seed, name).child(index as u64).key(),
    }
}

/// Temperatures below this count as 0, because they only distinguish logits that are equal to within rounding.
const COLDEST: f64 = 1e-6;

/// A token that was drawn, with the natural logarithm of its probability under two distributions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-prob under the model: temperature 1, over the whole vocabulary.
    pub logp: f32,
    /// Its log-prob under the distribution that it was drawn from: tempered and limited by `top_k` and `top_p`; 0 for a
    /// greedy choice.
    pub sampling_logp: f32,
}

/// A seeded sampler of tokens.
pub struct Sampler {
    config: SamplingConfig,
    random: StdRng,
}

impl Sampler {
    /// Creates a sampler at the start of its random stream.
    pub fn new(config: &SamplingConfig) -> Self {
        Self { config: config.clone(), random: StdRng::seed_from_u64(config.seed) }
    }

    /// Samples the next token.
    ///
    /// # Errors
    /// Returns an error if there are no logits or one of them is NaN.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        self.choose(logits).map(|(token, _)| token)
    }

    /// Samples the next token and returns it with its log-probs. The token is that of [`Sampler::next`].
    ///
    /// # Errors
    /// As [`Sampler::next`].
    pub fn draw(&mut self, logits: &[f32]) -> Result<Drawn> {
        let (token, limited) = self.choose(logits)?;
        let logp = token_logps::of_logits(logits, token);
        // Where nothing is tempered or limited, both distributions are the model's.
        Ok(Drawn { token, logp, sampling_logp: limited.unwrap_or(logp) })
    }

    /// Returns a token, and its log-prob under the distribution that it was drawn from unless that is the model's.
    fn choose(&mut self, logits: &[f32]) -> Result<(u32, Option<f32>)> {
        if logits.is_empty() || simd::has_nan(logits) {
            return Err(Error::Model("the logits are not numbers: an activation overflowed".into()));
        }
        if self.config.is_greedy() {
            return Ok((likeliest(logits) as u32, Some(0.0)));
        }
        let probabilities = softmax(logits, self.config.temperature);
        let Some(order) = self.candidates(&probabilities) else {
            let token = self.weighted(&probabilities)?;
            let tempered = self.config.temperature != 1.0;
            return Ok((token as u32, tempered.then(|| probabilities[token].ln())));
        };
        let weights: Vec<f32> = order.iter().map(|token| probabilities[*token]).collect();
        let drawn = self.weighted(&weights)?;
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        Ok((order[drawn] as u32, Some((f64::from(weights[drawn]) / total).ln() as f32)))
    }

    /// Draws an index with probability proportional to its weight.
    fn weighted(&mut self, weights: &[f32]) -> Result<usize> {
        let drawn = WeightedIndex::new(weights)
            .map_err(|error| Error::Model(format!("no token can be drawn from the logits: {error}")))?;
        Ok(drawn.sample(&mut self.random))
    }

    /// Returns the candidate tokens: the k most likely, then the most likely of these that have the share `top_p` of their
    /// probability, as in transformers and llama.cpp; `None` if all tokens are candidates.
    fn candidates(&self, probabilities: &[f32]) -> Option<Vec<usize>> {
        let top_k = self.config.top_k.filter(|k| *k < probabilities.len());
        let top_p = self.config.top_p.filter(|p| *p < 1.0);
        if top_k.is_none() && top_p.is_none() {
            return None;
        }
        let mut tokens: Vec<usize> = (0..probabilities.len()).collect();
        if let Some(k) = top_k {
            tokens.select_nth_unstable_by(k, |a, b| probabilities[*b].total_cmp(&probabilities[*a]));
            tokens.truncate(k);
        }
        let Some(p) = top_p else { return Some(tokens) };
        tokens.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        let of = |token: &usize| f64::from(probabilities[*token]);
        let enough = p * tokens.iter().map(of).sum::<f64>();
        let mut sum = 0.0;
        let kept = tokens.iter().take_while(|token| {
            let below = sum < enough;
            sum += of(token);
            below
        });
        let kept = kept.count();
        tokens.truncate(kept.max(1));
        Some(tokens)
    }
}

/// Returns the index of the largest logit, or the first of several.
fn likeliest(logits: &[f32]) -> usize {
    simd::position(logits, simd::maximum(logits)).unwrap_or(0)
}

/// softmax(logits / temperature), `[vocab]`.
fn softmax(logits: &[f32], temperature: f64) -> Vec<f32> {
    let mut weights = logits.to_vec();
    let sum = weigh(&mut weights, simd::maximum(logits), 1.0 / temperature as f32);
    weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / sum) as f32);
    weights
}

vectorised! {
    /// Computes `x ← e^{scale·(x − most)}` and returns the sum.
    fn weigh(x: &mut [f32], most: f32, scale: f32) -> f64 {
        let mut sums = [0.0; LANES];
        for chunk in x.chunks_mut(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = simd::exp::<FMA>((*x - most) * scale);
                *sum += f64::from(*x);
            }
        }
        sums.iter().sum()
    }
}

/// Running sums of the weights.
const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 + log of 0.4, 0.3, 0.2, 0.1, in a different order.
    const LOGITS: [f32; 4] = [-0.609_438, 0.083_709, -1.302_585, -0.203_973];

    fn drawn(config: &SamplingConfig, logits: &[f32], times: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(config);
        let mut counts = vec![0; logits.len()];
        for _ in 0..times {
            counts[sampler.next(logits).unwrap() as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / times as f64).collect()
    }

    fn config(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> SamplingConfig {
        SamplingConfig { temperature, top_k, top_p, seed: 7 }
    }

    /// Checks the shares of 20,000 draws to within four standard errors.
    #[track_caller]
    fn near(found: &[f64], expected: [f64; 4]) {
        for (found, expected) in found.iter().zip(expected) {
            let error = (expected * (1.0 - expected) / 2e4).sqrt();
            assert!((found - expected).abs() <= 4.0 * error, "{found} for {expected}");
        }
    }

    #[test]
    fn shares_are_those_of_the_tempered_distribution() {
        near(&drawn(&config(1.0, None, None), &LOGITS, 20_000), [0.2, 0.4, 0.1, 0.3]);
        // Squared and normalised: 0.04, 0.16, 0.01, 0.09 over 0.30.
        let squared = [0.04 / 0.3, 0.16 / 0.3, 0.01 / 0.3, 0.09 / 0.3];
        near(&drawn(&config(0.5, None, None), &LOGITS, 20_000), squared);
    }

    #[test]
    fn only_the_likeliest_are_drawn() {
        near(&drawn(&config(1.0, Some(2), None), &LOGITS, 20_000), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // 0.4 + 0.3 reach 0.65; of the two most likely, 0.4 alone reaches 0.4.
        near(&drawn(&config(1.0, None, Some(0.65)), &LOGITS, 20_000), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // Of the two most likely, 0.4 has the share 4/7 = 0.57.
        near(&drawn(&config(1.0, Some(2), Some(0.55)), &LOGITS, 20_000), [0.0, 1.0, 0.0, 0.0]);
        near(&drawn(&config(1.0, Some(2), Some(0.6)), &LOGITS, 20_000), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(&drawn(&config(1.0, Some(9), Some(1.0)), &LOGITS, 20_000), [0.2, 0.4, 0.1, 0.3]);
    }

    #[test]
    fn cold_is_greedy_and_takes_the_first_of_equals() {
        assert_eq!(Sampler::new(&config(0.0, None, None)).next(&[1.0, 3.0, 3.0]).unwrap(), 1);
        assert_eq!(drawn(&config(1e-7, None, None), &LOGITS, 50), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let mut sampler = Sampler::new(&config(1.0, None, None));
        assert!(sampler.next(&[0.0, f32::NAN]).is_err() && sampler.next(&[]).is_err());
        assert_eq!(sampler.next(&[f32::NEG_INFINITY, 0.0]).unwrap(), 1);
    }

    #[test]
    fn a_seed_repeats_its_tokens() {
        let run = |seed| {
            let mut sampler = Sampler::new(&SamplingConfig { seed, ..config(1.0, None, None) });
            (0..64).map(|_| sampler.next(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
