//! Compares the device engine with the processor's: every family, forward and backward, in f32 and bf16, and results
//! that must have the same bits. The device is a card if one is named, otherwise the same kernels compiled for the
//! processor (`common/device.rs`).
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::device::{device, is_card};
use common::{Model, decoder, examples, fixture, json, load, models, pack, random_lora, zero_b_lora};
use dpo_lora::data::{Example, Origin, PackedBatch};
use dpo_lora::generate::{Limits, Request, Rollouts, SamplingConfig, complete};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::gguf::GgufModel;
use dpo_lora::model::pass::Pass;
use dpo_lora::random::Stream;
use dpo_lora::trainable::{Adapters, Dropout, Frozen};
use dpo_lora::weights::DType;

/// The results of the passes: reference, policy, gradient.
struct Found {
    reference: Vec<f64>,
    policy: Vec<f64>,
    gradient: Vec<f32>,
}

fn pairs(name: &str, count: usize) -> Vec<Example> {
    let mut all = examples("pairs.jsonl", &fixture("models").join(name));
    all.truncate(count);
    all
}

fn pass(decoder: &Model, batch: &PackedBatch, training: Training) -> Found {
    let reference = decoder.logps(batch, Pass::Reference).unwrap();
    let (policy, tape) = decoder.forward(batch, training).unwrap();
    let weights: Vec<f64> = (0..policy.len()).map(|i| if i % 2 == 0 { -0.3 } else { 0.4 }).collect();
    let mut gradient = vec![0.0; decoder.trained().values().len()];
    decoder.backward(tape, batch, &weights, &mut gradient).unwrap();
    Found { reference, policy, gradient }
}

/// Two pairs. The second is longer than windows and than tiles of attention; on the processor only the families that
/// limit how far back a token attends need it.
fn two_pairs(name: &str) -> PackedBatch {
    let mut two = pairs(name, 2);
    let config = json(&format!("models/{name}/config.json"));
    let text = config.get("text_config").unwrap_or(&config);
    let far =
        text["sliding_window"].is_number() || ["rope", "dynamic"].iter().any(|part| name.contains(part));
    if !far && !is_card() {
        two[1].prompt.truncate(20);
    }
    pack(&two)
}

/// The same model on the processor and on the device.
fn both(decoder: &mut Model, batch: &PackedBatch, training: Training) -> (Found, Found) {
    decoder.place_on(None);
    let want = pass(decoder, batch, training);
    decoder.place_on(device());
    let found = pass(decoder, batch, training);
    (want, found)
}

fn norm(x: impl Iterator<Item = f32>) -> f64 {
    x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Returns the distance of the gradients relative to the correct one, and that of the worst matrix.
fn apart(decoder: &Model, want: &Found, found: &Found) -> (f64, f64, String) {
    let of = |range: std::ops::Range<usize>| {
        let (w, f) = (&want.gradient[range.clone()], &found.gradient[range]);
        (norm(f.iter().zip(w).map(|(f, w)| f - w)), norm(w.iter().copied()))
    };
    let (all, size) = of(0..want.gradient.len());
    let mut worst = (0.0, String::new());
    for lora in decoder.trained().loras("a test").unwrap() {
        for (part, range) in [("A", lora.a()), ("B", lora.b())] {
            let (difference, size) = of(range);
            let share = difference / size.max(1e-3);
            if share > worst.0 {
                worst = (share, format!("{} {part}", lora.module));
            }
        }
    }
    (all / size, worst.0, worst.1)
}

fn check(name: &str, decoder: &Model, (want, found): &(Found, Found), nats: f64, share: f64) {
    for (which, want, found) in
        [("reference", &want.reference, &found.reference), ("policy", &want.policy, &found.policy)]
    {
        for (i, (w, f)) in want.iter().zip(found).enumerate() {
            assert!((w - f).abs() < nats, "{name}: {which} {i} is {f}, not {w}");
        }
    }
    let (all, worst, module) = apart(decoder, want, found);
    assert!(
        all < share && worst < 10.0 * share,
        "{name}: gradient off by {all:.2e}, {module} by {worst:.2e}"
    );
}

#[test]
fn every_family_computes_what_the_processor_does() {
    if device().is_none() {
        return;
    }
    for name in models() {
        let mut plain = decoder(&name);
        plain.train(random_lora(&plain, 11));
        let found = both(&mut plain, &two_pairs(&name), Training::default());
        check(&name, &plain, &found, 1e-3, 1e-4);
    }
}

/// Activations are bf16 with 8 bits, so each of the dozen roundings of a block costs 2⁻⁹ of its number.
#[test]
fn every_family_stays_near_in_bf16() {
    if device().is_none() {
        return;
    }
    for name in models() {
        let mut rounded = load(&fixture("models").join(&name), DType::Bf16);
        rounded.train(random_lora(&rounded, 11));
        let found = both(&mut rounded, &two_pairs(&name), Training::default());
        let nats = 0.005 * found.0.policy.iter().fold(0.0f64, |most, logp| most.max(logp.abs()));
        check(&name, &rounded, &found, nats, 0.05);
    }
}

#[test]
fn quantised_bases_compute_what_their_numbers_say() {
    if device().is_none() {
        return;
    }
    let expected = json("gguf/expected.json");
    for name in expected.as_object().unwrap().keys() {
        let model = GgufModel::open(&fixture("gguf").join(format!("{name}.gguf"))).unwrap();
        let ids = |value: &serde_json::Value| -> Vec<u32> {
            value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let sequences = expected[name]["sequences"].as_array().unwrap().iter().take(2);
        let batch: Vec<Example> = sequences
            .map(|sequence| Example {
                prompt: ids(&sequence["prompt"]),
                completions: sequence["completions"].as_array().unwrap().iter().map(ids).collect(),
                kind: dpo_lora::data::Kind::PAIR,
                origin: Origin::new("gguf", 1),
            })
            .collect();
        let load = |dtype| Model::from(Decoder::load(model.spec.clone(), &model.source, dtype).unwrap());
        let (mut wide, mut quantised) = (load(Some(DType::F32)), load(None));
        wide.train(random_lora(&wide, 3));
        quantised.train(random_lora(&quantised, 3));
        let want = pass(&wide, &pack(&batch), Training::default());
        quantised.place_exactly_on(device());
        let exact = pass(&quantised, &pack(&batch), Training::default());
        check(name, &quantised, &(want, exact), 1e-3, 1e-3);
        let want = pass(&wide, &pack(&batch), Training::default());
        quantised.place_on(device());
        let rounded = pass(&quantised, &pack(&batch), Training::default());
        let nats = 0.01 * want.policy.iter().fold(0.0f64, |most, logp| most.max(logp.abs()));
        check(name, &quantised, &(want, rounded), nats, 0.1);
    }
}

/// A pair's bits do not depend on its batch, and policy and reference have the same bits while B is zero.
#[test]
fn bits_depend_on_the_pair_alone() {
    if device().is_none() {
        return;
    }
    let names: Vec<String> =
        if is_card() { models() } else { vec!["llama3".into(), "gemma2".into(), "phi3".into()] };
    for name in names {
        for dtype in [DType::F32, DType::Bf16] {
            let mut decoder = load(&fixture("models").join(&name), dtype);
            decoder.place_on(device());
            let pairs = pairs(&name, 4);
            decoder.train(random_lora(&decoder, 2));
            let together = decoder.logps(&pack(&pairs), Pass::Policy).unwrap();
            for (i, pair) in pairs.iter().enumerate() {
                let alone = decoder.logps(&pack(std::slice::from_ref(pair)), Pass::Policy).unwrap();
                assert_eq!(alone, together[2 * i..2 * i + 2], "{name} {dtype:?} pair {i}");
            }
            decoder.train(zero_b_lora(&decoder, 1));
            let batch = pack(&pairs);
            let reference = decoder.logps(&batch, Pass::Reference).unwrap();
            assert_eq!(decoder.logps(&batch, Pass::Policy).unwrap(), reference, "{name} {dtype:?}");
            assert_eq!(
                decoder.forward(&batch, Training::default()).unwrap().0,
                reference,
                "{name} {dtype:?}"
            );
        }
    }
}

#[test]
fn recomputed_blocks_and_reruns_give_the_same_bits() {
    if device().is_none() {
        return;
    }
    let dropout = Some(Dropout { probability: 0.25, stream: Stream::new(9, "dropout") });
    for (name, dropout) in [("llama3", dropout), ("gemma2", None), ("gptj", None), ("gpt_neox", dropout)] {
        let mut decoder = load(&fixture("models").join(name), DType::Bf16);
        decoder.train(random_lora(&decoder, 2));
        decoder.place_on(device());
        let batch = pack(&pairs(name, 3));
        let [kept, again, recomputed] = [false, false, true]
            .map(|recompute| pass(&decoder, &batch, Training { dropout, recompute, ..Training::default() }));
        assert_eq!(kept.policy, again.policy, "{name}");
        assert_eq!(kept.gradient, again.gradient, "{name}");
        assert_eq!(kept.policy, recomputed.policy, "{name}");
        assert_eq!(kept.gradient, recomputed.gradient, "{name}");
    }
}

/// With prompts of one token every row is scored, so processor and device number the rows of the last block alike.
#[test]
fn dropout_drops_what_the_processor_drops() {
    if device().is_none() {
        return;
    }
    let mut plain = decoder("llama3");
    plain.train(random_lora(&plain, 11));
    let example = |completions: [&[u32]; 2]| Example {
        prompt: vec![5],
        completions: completions.map(<[u32]>::to_vec).to_vec(),
        kind: dpo_lora::data::Kind::PAIR,
        origin: Origin::new("test", 1),
    };
    let batch = pack(&[example([&[7, 8, 9, 3], &[4, 4]]), example([&[9], &[2, 3, 6]])]);
    let dropout = Some(Dropout { probability: 0.3, stream: Stream::new(4, "dropout") });
    let found = both(&mut plain, &batch, Training { dropout, recompute: false, ..Training::default() });
    check("llama3", &plain, &found, 1e-3, 1e-4);
}

/// Adapters that are not trained: one for both policies, and one for the reference alone.
#[test]
fn frozen_adapters_belong_to_their_policies() {
    if device().is_none() {
        return;
    }
    for name in ["llama3", "phi3"] {
        let mut plain = decoder(name);
        plain.train(random_lora(&plain, 11));
        for (seed, reference_only) in [(21, false), (22, true)] {
            plain.policy.frozen.push(Frozen { adapters: random_lora(&plain, seed), reference_only });
        }
        let found = both(&mut plain, &two_pairs(name), Training::default());
        check(name, &plain, &found, 1e-3, 1e-4);
        plain.train(Adapters::default());
        let batch = pack(&pairs(name, 2));
        let found = plain.logps(&batch, Pass::Policy).unwrap();
        plain.place_on(None);
        let want = plain.logps(&batch, Pass::Policy).unwrap();
        assert!(want.iter().zip(&found).all(|(w, f)| (w - f).abs() < 1e-3), "{name}: {want:?} {found:?}");
    }
}

#[test]
fn tokens_come_with_the_processors_logits() {
    if device().is_none() {
        return;
    }
    for name in ["llama3", "gemma3", "gpt2", "phi3-longrope", "mistral"] {
        let mut plain = decoder(name);
        plain.train(random_lora(&plain, 11));
        let prompt = pairs(name, 1)[0].prompt.clone();
        let mut generate = |on| {
            plain.place_on(on);
            let mut cache = plain.new_cache();
            let mut all = plain.step(&prompt, &mut cache, Pass::Policy).unwrap();
            for token in [3, 5, 4, 6] {
                all.extend(plain.step(&[token], &mut cache, Pass::Policy).unwrap());
            }
            all
        };
        let (want, found) = (generate(None), generate(device()));
        let furthest = want.iter().zip(&found).map(|(w, f)| (w - f).abs()).fold(0.0, f32::max);
        assert!(want.len() == found.len() && furthest < 1e-3, "{name}: {furthest}");
    }
}

#[test]
fn completions_decoded_together_are_those_decoded_alone() {
    if device().is_none() {
        return;
    }
    let tokenizer = dpo_lora::data::ChatTokenizer::load(fixture("tokenizer"), None).unwrap();
    // Keys of longrope depend on the final length: its sequences are decoded one by one.
    for name in ["llama3", "gemma3", "phi3-longrope"] {
        let mut model = decoder(name);
        model.train(random_lora(&model, 11));
        model.place_on(device());
        let limits = Limits { max_new_tokens: 6, eos: vec![3, 10, 17, 24, 31, 38, 45], stop: Vec::new() };
        let prompts: [(&[u32], usize); 3] = [(&[5, 7, 9], 3), (&[4], 1), (&[8, 3, 6, 5, 4], 2)];
        let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: 4 };
        let request = |(i, (prompt, completions)): (usize, &(&[u32], usize))| Request {
            prompt: prompt.to_vec(),
            sampling: sampling.for_prompt(i),
            completions: *completions,
        };
        let requests: Vec<Request> = prompts.iter().enumerate().map(request).collect();
        let side = (&model.policy, Pass::Policy);
        let all = Rollouts::new(&model.decoder, &tokenizer, requests.clone(), side, &limits).unwrap();
        let all = all.together(3).in_order().unwrap();
        assert_eq!(all.len(), 6);
        for found in all {
            let request = &requests[found.prompt];
            let alone = Request::new(request.prompt.clone(), request.sampling.for_completion(found.index));
            let want = complete(&model.decoder, &tokenizer, &alone, side, &limits).unwrap();
            assert_eq!((found.drawn(), &found.text), (want.drawn(), &want.text), "{name}");
            assert!((found.logp() - want.logp()).abs() < 1e-3, "{name}");
        }
    }
}

#[test]
fn what_the_model_does_not_have_is_refused() {
    if device().is_none() {
        return;
    }
    let mut decoder = decoder("llama3");
    decoder.place_on(device());
    let vocab = decoder.spec().vocab_size as u32;
    let example = |prompt: u32, target: u32| Example {
        prompt: vec![prompt],
        completions: vec![vec![target], vec![1, 2]],
        kind: dpo_lora::data::Kind::PAIR,
        origin: Origin::new("test", 1),
    };
    for wrong in [example(vocab, 1), example(1, vocab)] {
        let error = decoder.logps(&pack(&[wrong]), Pass::Reference).unwrap_err().to_string();
        assert!(error.contains(&vocab.to_string()), "{error}");
    }
    assert_eq!(decoder.logps(&pack(&[]), Pass::Reference).unwrap(), Vec::<f64>::new());
}
