//! Completions that are decoded together equal those that are decoded one by one, in every family, and their log-probs are
//! those of the model.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{Model, decoder, fixture, load, models, pack, random_lora};
use dpo_lora::data::{ChatTokenizer, Example, Kind, Origin};
use dpo_lora::generate::{
    Completion, FinishReason, Limits, Request, Rollouts, SamplingConfig, complete, complete_all,
};
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::gguf::GgufModel;
use dpo_lora::model::pass::Pass;
use dpo_lora::reward::{Reward, Sample, best, expected_best, kl_bound, score};
use dpo_lora::weights::DType;

fn tokenizer() -> ChatTokenizer {
    ChatTokenizer::load(fixture("tokenizer"), None).unwrap()
}

fn sampling(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> SamplingConfig {
    SamplingConfig { temperature, top_k, top_p, seed: 9 }
}

/// Prompts of different lengths, greedy and sampled, with one completion or several. The longest crosses the length at
/// which longrope changes its frequencies.
fn requests() -> Vec<Request> {
    let long: Vec<u32> = (0..29).map(|i| 3 + i * 7 % 11).collect();
    let all: [(&[u32], SamplingConfig, usize); 6] = [
        (&[5, 7, 9], sampling(0.0, None, None), 1),
        (&[4], sampling(1.0, None, None), 4),
        (&[8, 3, 6, 5, 4, 7, 9, 3, 11, 4, 12, 3, 7], sampling(1.3, Some(20), None), 2),
        (&[5, 7, 9], sampling(1.0, None, None), 1),
        (&long, sampling(0.8, None, Some(0.9)), 3),
        (&[6, 3], sampling(0.0, None, None), 1),
    ];
    let request = |(i, (prompt, sampling, completions)): (usize, &(&[u32], SamplingConfig, usize))| Request {
        prompt: prompt.to_vec(),
        sampling: sampling.for_prompt(i),
        completions: *completions,
    };
    all.iter().enumerate().map(request).collect()
}

/// Limits at which about one in seven tokens ends a completion.
fn limits(vocab: usize) -> Limits {
    let eos = (0..vocab as u32).filter(|token| token % 7 == 3).collect();
    Limits { max_new_tokens: 9, eos, stop: Vec::new() }
}

/// Decodes every completion by itself.
fn one_by_one(model: &Model, requests: &[Request], pass: Pass, limits: &Limits) -> Vec<Completion> {
    let tokenizer = tokenizer();
    let mut all = Vec::new();
    for (prompt, request) in requests.iter().enumerate() {
        for index in 0..request.completions {
            let sampling = request.sampling.for_completion(index);
            let alone = Request::new(request.prompt.clone(), sampling);
            let side = (&model.policy, pass);
            let found = complete(&model.decoder, &tokenizer, &alone, side, limits).unwrap();
            all.push(Completion { prompt, index, ..found });
        }
    }
    all
}

fn together(model: &Model, requests: &[Request], pass: Pass, limits: &Limits, n: usize) -> Vec<Completion> {
    let (tokenizer, side) = (tokenizer(), (&model.policy, pass));
    let rollouts = Rollouts::new(&model.decoder, &tokenizer, requests.to_vec(), side, limits).unwrap();
    rollouts.together(n).in_order().unwrap()
}

/// Compares both ways on both sides, and returns the completions of the policy.
#[track_caller]
fn assert_equal(name: &str, model: &Model) -> Vec<Completion> {
    let (requests, limits) = (requests(), limits(model.decoder.spec().vocab_size));
    let mut sides = Vec::new();
    for pass in [Pass::Reference, Pass::Policy] {
        let want = one_by_one(model, &requests, pass, &limits);
        for n in [1, 3, 64] {
            let found = together(model, &requests, pass, &limits, n);
            assert_eq!(found, want, "{name} {pass:?}, {n} at once");
        }
        sides.push(want);
    }
    assert_ne!(sides[0], sides[1], "{name}: the adapter does nothing");
    sides.remove(1)
}

#[test]
fn together_is_one_by_one_in_every_family() {
    let (mut lengths, mut reasons) = (BTreeSet::new(), BTreeSet::new());
    for name in models() {
        let mut model = decoder(&name);
        model.train(random_lora(&model, 5));
        for completion in assert_equal(&name, &model) {
            lengths.insert(completion.tokens.len());
            reasons.insert(format!("{:?}", completion.finish_reason));
            assert_eq!(completion.logps.len(), completion.drawn().len());
            assert_eq!(completion.end.is_some(), completion.finish_reason == FinishReason::Stop);
        }
    }
    assert_eq!(lengths, (0..=9).collect(), "completions finish at different times");
    assert_eq!(reasons.len(), 2);
}

#[test]
fn together_is_one_by_one_in_every_storage_type() {
    for (name, dtype) in [("gemma3", DType::Bf16), ("qwen2", DType::Bf16), ("llama", DType::F16)] {
        let mut model = load(&fixture("models").join(name), dtype);
        model.train(random_lora(&model, 6));
        assert_equal(name, &model);
    }
    // Shapes for which products of one row have kernels of their own.
    let tiny = fixture("../../examples/tiny-reviews/model");
    let mut model = load(&tiny, DType::Bf16);
    model.train(random_lora(&model, 7));
    assert_equal("tiny-reviews", &model);
    for name in ["llama-k", "gemma3"] {
        let file = GgufModel::open(&fixture("gguf").join(format!("{name}.gguf"))).unwrap();
        let mut model: Model = Decoder::load(file.spec.clone(), &file.source, None).unwrap().into();
        model.train(random_lora(&model, 8));
        assert_equal(name, &model);
    }
}

#[test]
fn threads_change_nothing() {
    let mut model = decoder("gemma2");
    model.train(random_lora(&model, 5));
    let (requests, limits) = (requests(), limits(model.decoder.spec().vocab_size));
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| together(&model, &requests, Pass::Policy, &limits, 4))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_completion_does_not_depend_on_its_neighbours() {
    let mut model = decoder("llama3");
    model.train(random_lora(&model, 5));
    let (requests, limits) = (requests(), limits(model.decoder.spec().vocab_size));
    let all = together(&model, &requests, Pass::Policy, &limits, 64);
    // Fewer completions of one prompt, other prompts around it.
    let fewer = Request { completions: 2, ..requests[1].clone() };
    let others = [requests[4].clone(), fewer, requests[0].clone()];
    let found = together(&model, &others, Pass::Policy, &limits, 64);
    let of = |all: &[Completion], prompt, index| {
        let found = all.iter().find(|it| (it.prompt, it.index) == (prompt, index)).unwrap();
        (found.text.clone(), found.drawn(), found.logps.clone())
    };
    assert_eq!(of(&found, 1, 1), of(&all, 1, 1));
    assert_eq!(of(&found, 0, 2), of(&all, 4, 2));
    let drawn: BTreeSet<Vec<u32>> = (0..4).map(|index| of(&all, 1, index).1).collect();
    assert!(drawn.len() > 1, "the completions of a prompt have seeds of their own");
}

#[test]
fn log_probs_are_those_of_the_model() {
    for name in ["llama", "gemma3", "qwen2", "gpt2", "cohere2"] {
        let mut model = decoder(name);
        model.train(random_lora(&model, 5));
        let (requests, limits) = (requests(), limits(model.decoder.spec().vocab_size));
        for pass in [Pass::Reference, Pass::Policy] {
            for found in together(&model, &requests, pass, &limits, 8) {
                let example = Example {
                    prompt: requests[found.prompt].prompt.clone(),
                    completions: vec![found.drawn()],
                    kind: Kind::Text,
                    origin: Origin::new("test", 1),
                };
                let want = model.logps(&pack(&[example]), pass).unwrap()[0];
                assert!((found.logp() - want).abs() < 1e-3, "{name}: {} against {want}", found.logp());
            }
        }
    }
}

#[test]
fn sampling_log_probs_are_those_of_the_tempered_and_limited_distribution() {
    let model = decoder("llama");
    let (tokenizer, prompt) = (tokenizer(), vec![5, 7, 9]);
    let mut cache = model.new_cache();
    let logits = model.step(&prompt, &mut cache, Pass::Reference).unwrap();
    let limits = Limits { max_new_tokens: 1, ..Limits::default() };
    for (temperature, top_k) in [(0.7, None), (0.7, Some(6)), (1.0, Some(6)), (1.0, None)] {
        let request =
            Request { prompt: prompt.clone(), sampling: sampling(temperature, top_k, None), completions: 40 };
        let side = (&model.policy, Pass::Reference);
        let found = complete_all(&model.decoder, &tokenizer, &[request], side, &limits).unwrap();
        assert_eq!(found.len(), 40);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(top_k.unwrap_or(usize::MAX));
        let log_sum = |order: &[usize], t: f64| {
            order.iter().map(|i| (f64::from(logits[*i]) / t).exp()).sum::<f64>().ln()
        };
        let all: Vec<usize> = (0..logits.len()).collect();
        for completion in found {
            let token = completion.tokens[0] as usize;
            assert!(order.contains(&token));
            let want = f64::from(logits[token]) / temperature - log_sum(&order, temperature);
            let plain = f64::from(logits[token]) - log_sum(&all, 1.0);
            assert!((f64::from(completion.sampling_logps[0]) - want).abs() < 2e-5, "{temperature} {top_k:?}");
            assert!((f64::from(completion.logps[0]) - plain).abs() < 2e-5);
        }
    }
}

/// A reward of single tokens, all different.
struct OfToken;

fn worth(token: u32) -> f64 {
    f64::from(token.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24)
}

impl Reward for OfToken {
    fn name(&self) -> String {
        "token".into()
    }

    fn rewards(&mut self, samples: &[Sample]) -> dpo_lora::Result<Vec<f64>> {
        Ok(samples.iter().map(|sample| worth(sample.tokens[0])).collect())
    }
}

#[test]
fn best_of_n_has_the_reward_and_the_divergence_of_its_known_distribution() {
    // One token is drawn from a softmax that is known. The best of N has the distribution F(r)^N - F(r-)^N.
    let model = decoder("llama");
    let (tokenizer, prompt) = (tokenizer(), vec![5, 7, 9]);
    let mut cache = model.new_cache();
    let logits = model.step(&prompt, &mut cache, Pass::Reference).unwrap();
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let mut tokens: Vec<(f64, f64)> = (0..logits.len())
        .map(|token| (worth(token as u32), f64::from(logits[token]).exp() / total))
        .collect();
    tokens.sort_by(|a, b| a.0.total_cmp(&b.0));

    let (n, groups) = (5usize, 1500);
    let request = |i| Request {
        prompt: prompt.clone(),
        sampling: sampling(1.0, None, None).for_prompt(i),
        completions: n,
    };
    let limits = Limits { max_new_tokens: 1, ..Limits::default() };
    let requests: Vec<Request> = (0..groups).map(request).collect();
    let rollouts =
        Rollouts::new(&model.decoder, &tokenizer, requests, (&model.policy, Pass::Reference), &limits)
            .unwrap();
    let (mut greatest, mut all) = (Vec::new(), Vec::new());
    for group in rollouts.by_request() {
        let rewards = score(&mut OfToken, &group.unwrap(), |_| ("", &prompt)).unwrap();
        assert_eq!(rewards.len(), n);
        greatest.push(rewards[best(&rewards).unwrap()]);
        all.extend(rewards);
    }
    let (mut below, mut mean, mut square, mut divergence) = (0.0f64, 0.0, 0.0, 0.0);
    for (reward, p) in &tokens {
        let q = (below + p).powi(n as i32) - below.powi(n as i32);
        below += p;
        mean += q * reward;
        square += q * reward * reward;
        divergence += if q > 0.0 { q * (q / p).ln() } else { 0.0 };
    }
    let deviation = (square - mean * mean).sqrt() / f64::from(groups as u32).sqrt();
    let found = greatest.iter().sum::<f64>() / greatest.len() as f64;
    assert!((found - mean).abs() < 4.0 * deviation, "{found} against {mean} ± {deviation}");
    // All draws together estimate the same number without bias.
    let estimated = expected_best(&all, n).unwrap();
    assert!((estimated - mean).abs() < 4.0 * deviation, "{estimated} against {mean} ± {deviation}");
    let plain: f64 = tokens.iter().map(|(reward, p)| reward * p).sum();
    assert!(mean - plain > 10.0 * deviation, "the best is not better: {mean} and {plain}");
    assert!(divergence > 0.5 * kl_bound(n) && divergence <= kl_bound(n), "{divergence}, {}", kl_bound(n));
}

#[test]
fn wrong_prompts_end_the_iterator_with_one_error() {
    let model = decoder("llama");
    let (tokenizer, limits) = (tokenizer(), Limits { max_new_tokens: 3, ..Limits::default() });
    let side = (&model.policy, Pass::Reference);
    let of = |prompt: Vec<u32>| Request::new(prompt, sampling(0.0, None, None));
    let empty = Rollouts::new(&model.decoder, &tokenizer, vec![of(vec![])], side, &limits);
    assert!(empty.is_err());
    let vocab = model.decoder.spec().vocab_size as u32;
    for wrong in [vec![vocab], vec![5; model.decoder.spec().max_positions + 1]] {
        let requests = vec![of(vec![5, 7]), of(wrong)];
        let mut found = Rollouts::new(&model.decoder, &tokenizer, requests, side, &limits).unwrap();
        assert!(found.any(|completion| completion.is_err()));
        assert!(found.next().is_none());
    }
    // No request, or requests for nothing.
    let nothing = Request { completions: 0, ..of(vec![5]) };
    let mut groups =
        Rollouts::new(&model.decoder, &tokenizer, vec![nothing], side, &limits).unwrap().by_request();
    assert!(groups.next().unwrap().unwrap().is_empty() && groups.next().is_none());
}
