//! Properties that hold to the bit for all families: batch invariance, threads, recomputation, accumulation.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{Model, decoder, examples, fixture, load, models, pack, random_lora, zero_b_lora};
use dpo_lora::data::{Example, Kind, PackedBatch};
use dpo_lora::model::decoder::Training;
use dpo_lora::model::pass::Pass;
use dpo_lora::objective::Objective;
use dpo_lora::ops::Tensor;
use dpo_lora::random::Stream;
use dpo_lora::ranks::ALONE;
use dpo_lora::train::config::TrainConfig;
use dpo_lora::train::optimizer::{Optimizer, OptimizerKind};
use dpo_lora::train::reference::ReferenceCache;
use dpo_lora::train::step::{self, Outcome, Settings};
use dpo_lora::trainable::Dropout;
use dpo_lora::weights::DType;

fn pairs_of(model: &str) -> Vec<Example> {
    examples("pairs.jsonl", &fixture("models").join(model))
}

/// The embedded base, which is large enough for its matrices to be split between threads.
fn tiny_reviews() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny-reviews/model")
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Returns the log-probs and the gradient of `Σ ±logp` over a batch.
fn pass(decoder: &Model, batch: &PackedBatch, training: Training) -> (Vec<f64>, Vec<f32>) {
    let (logps, tape) = decoder.forward(batch, training).unwrap();
    let weights: Vec<f64> = (0..logps.len()).map(|i| if i % 2 == 0 { 0.75 } else { -0.5 }).collect();
    let gradient = decoder.gradient(tape, batch, &weights);
    (logps, gradient)
}

fn dropout(seed: u64) -> Option<Dropout> {
    Some(Dropout { probability: 0.25, stream: Stream::new(seed, "dropout") })
}

/// Returns the parameters after one step of plain gradient descent from a copy of the same adapter.
fn one_step(
    decoder: &mut Model,
    batches: &[Vec<Example>],
    reference: &mut ReferenceCache,
) -> (Outcome, Vec<f32>) {
    decoder.train(random_lora(decoder, 5));
    let config = TrainConfig { optim: OptimizerKind::Sgd, ..TrainConfig::default() };
    let Model { decoder, policy } = decoder;
    let mut optimizer = Optimizer::new(&config.optimizer(), policy.trained.store_mut());
    let settings = Settings {
        objective: &Objective::default(),
        learning_rate: 1.0,
        clip_norm: None,
        dropout: 0.0,
        stream: Stream::new(0, "unused"),
        recompute: false,
        noise: None,
        ranks: &ALONE,
        cards: None,
    };
    let batches: Vec<PackedBatch> = batches.iter().map(|examples| pack(examples)).collect();
    let outcome = step::run(decoder, policy, &mut optimizer, reference, &batches, &settings).unwrap();
    (outcome, policy.trained.values().to_vec())
}

#[test]
fn rewards_are_zero_at_step_0_also_from_a_cache_of_other_batches() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for name in models() {
            let mut decoder = load(&fixture("models").join(&name), dtype);
            decoder.train(zero_b_lora(&decoder, 1));
            let pairs = pairs_of(&name);
            let mut reference = ReferenceCache::in_memory();
            // Alone and in reverse order; then half of them again within another batch, which must change nothing.
            for pair in pairs.iter().rev() {
                reference.logps(&decoder, &decoder.policy, &pack(std::slice::from_ref(pair))).unwrap();
            }
            let found = reference.logps(&decoder, &decoder.policy, &pack(&pairs)).unwrap();
            assert_eq!((reference.computed, reference.found), (pairs.len(), pairs.len()));
            for (first, batch) in pairs.chunks(4).enumerate() {
                let (policy, _) = decoder.forward(&pack(batch), Training::default()).unwrap();
                let scored = decoder.logps(&pack(batch), Pass::Policy).unwrap();
                let reference = &found[8 * first..][..policy.len()];
                assert_eq!(bits(&policy), bits(reference), "{name} {dtype:?}, forward of batch {first}");
                assert_eq!(bits(&scored), bits(reference), "{name} {dtype:?}, logps of batch {first}");
            }
        }
    }
}

#[test]
fn a_pairs_bits_do_not_depend_on_its_batch() {
    for name in models() {
        let mut decoder = decoder(&name);
        decoder.train(random_lora(&decoder, 2));
        let pairs = pairs_of(&name);
        let alone: Vec<Vec<f64>> = pairs
            .iter()
            .map(|pair| decoder.logps(&pack(std::slice::from_ref(pair)), Pass::Policy).unwrap())
            .collect();
        for order in [[8, 7, 6, 5, 4, 3, 2, 1, 0], [4, 0, 8, 2, 6, 1, 7, 5, 3]] {
            let shuffled: Vec<Example> = order.iter().map(|i| pairs[*i].clone()).collect();
            let together = decoder.logps(&pack(&shuffled), Pass::Policy).unwrap();
            for (place, i) in order.iter().enumerate() {
                assert_eq!(bits(&together[2 * place..2 * place + 2]), bits(&alone[*i]), "{name} pair {i}");
            }
        }
    }
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (one, three) = (pool(1), pool(3));
    let directories = models().into_iter().map(|name| fixture("models").join(name));
    for directory in directories.chain([tiny_reviews()]) {
        for dtype in [DType::F32, DType::Bf16] {
            let mut decoder = load(&directory, dtype);
            decoder.train(random_lora(&decoder, 3));
            let mut pairs = examples("pairs.jsonl", &directory);
            pairs.retain(|pair| pair.longest() <= decoder.spec().max_positions);
            let batch = pack(&pairs);
            let training = Training { dropout: dropout(1), recompute: false, ..Training::default() };
            let work = || {
                let reference = decoder.logps(&batch, Pass::Reference).unwrap();
                (reference, pass(&decoder, &batch, training))
            };
            let (a, b) = (one.install(work), three.install(work));
            let what = format!("{} {dtype:?}", directory.display());
            assert_eq!(bits(&a.0), bits(&b.0), "{what}: reference");
            assert_eq!(bits(&a.1.0), bits(&b.1.0), "{what}: policy");
            assert_eq!(a.1.1, b.1.1, "{what}: gradient");
            assert!(a.1.1.iter().any(|x| *x != 0.0));
        }
    }
}

#[test]
fn recomputed_blocks_give_the_same_gradient_bits_also_with_dropout() {
    for name in models() {
        let mut decoder = decoder(&name);
        decoder.train(random_lora(&decoder, 4));
        let batch = pack(&pairs_of(&name)[..5]);
        for dropout in [None, dropout(7)] {
            let kept = pass(&decoder, &batch, Training { dropout, recompute: false, ..Training::default() });
            let again = pass(&decoder, &batch, Training { dropout, recompute: true, ..Training::default() });
            assert_eq!(bits(&kept.0), bits(&again.0), "{name}");
            assert_eq!(kept.1, again.1, "{name}");
        }
    }
}

#[test]
fn dropout_differs_by_step_and_keeps_the_expectation() {
    let mut decoder = decoder("llama");
    decoder.train(random_lora(&decoder, 4));
    let batch = pack(&pairs_of("llama")[..3]);
    let at = |dropout| pass(&decoder, &batch, Training { dropout, recompute: false, ..Training::default() });
    let (same, again, other) = (at(dropout(1)), at(dropout(1)), at(dropout(2)));
    assert_eq!(same.1, again.1);
    assert_ne!(same.1, other.1);
    assert_ne!(same.1, at(None).1);

    // 400 × 50 draws: the dropped share has a standard deviation of √(p(1−p)/20000) ≈ 0.003, and the mean factor one of
    // √(p/(1−p)/20000) ≈ 0.004. The bound is five of them.
    let mask = dropout(3).unwrap();
    let x = Tensor::new(vec![1.0; 400 * 50], (400, 50)).unwrap();
    let (dropped, factors) = mask.mask(&x, "a").unwrap();
    let values = factors.into_numbers();
    assert_eq!(dropped.into_numbers(), values);
    let zeros = values.iter().filter(|v| **v == 0.0).count() as f64 / values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    assert!((zeros - 0.25).abs() < 0.015, "{zeros}");
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    assert!(values.iter().all(|v| *v == 0.0 || *v == 1.0 / 0.75));
    let elsewhere = mask.mask(&x, "b").unwrap().1.into_numbers();
    assert_ne!(values, elsewhere, "two modules share a mask");
}

#[test]
fn a_step_over_micro_batches_equals_one_over_all() {
    for name in ["llama", "gpt2", "gemma2", "phi3"] {
        let mut decoder = decoder(name);
        let pairs = pairs_of(name)[..8].to_vec();
        let mut reference = ReferenceCache::in_memory();
        let start = random_lora(&decoder, 5).values().to_vec();
        let (whole, at_once) = one_step(&mut decoder, std::slice::from_ref(&pairs), &mut reference);
        let moved = start.iter().zip(&at_once).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        for split in [vec![4, 4], vec![3, 5], vec![1, 2, 5]] {
            let mut rest = pairs.as_slice();
            let batches = split.iter().map(|n| {
                let (batch, behind) = rest.split_at(*n);
                rest = behind;
                batch.to_vec()
            });
            let batches: Vec<Vec<Example>> = batches.collect();
            let (parts, in_parts) = one_step(&mut decoder, &batches, &mut reference);
            assert!((parts.grad_norm - whole.grad_norm).abs() <= 1e-5 * whole.grad_norm, "{name} {split:?}");
            let apart = at_once.iter().zip(&in_parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart <= 1e-5 * moved, "{name} {split:?}: {apart} of {moved}");
            for ((key, a), (_, b)) in parts.metrics.means().into_iter().zip(whole.metrics.means()) {
                assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{name} {split:?} {key}: {a} {b}");
            }
        }
    }
}

#[test]
fn half_precision_weights_stay_near_f32() {
    // A bf16 weight is off by at most 2⁻⁹ of itself, and an f16 one by 2⁻¹². The log-probs of the fixtures then change
    // by fewer nats per token than this.
    for (dtype, bound) in [(DType::Bf16, 0.05), (DType::F16, 0.006)] {
        for name in models() {
            let directory = fixture("models").join(&name);
            let pairs = pairs_of(&name);
            let logps = |dtype| {
                let mut decoder = load(&directory, dtype);
                decoder.train(random_lora(&decoder, 6));
                decoder.logps(&pack(&pairs), Pass::Policy).unwrap()
            };
            let (exact, rounded) = (logps(DType::F32), logps(dtype));
            for (i, (a, b)) in exact.iter().zip(&rounded).enumerate() {
                let tokens = pairs[i / 2].scored(i % 2) as f64;
                assert!((a - b).abs() <= bound * tokens, "{name} {dtype:?}: {a} {b} over {tokens} tokens");
            }
            let same = bits(&exact) == bits(&rounded);
            // The only fixture that is stored in f16 loses nothing.
            assert_eq!(same, name == "llama-f16" && dtype == DType::F16, "{name} {dtype:?}");
        }
    }
}

#[test]
fn a_fractional_label_mixes_both_directions() {
    let mut decoder = decoder("qwen2");
    decoder.train(random_lora(&decoder, 8));
    let pairs = pairs_of("qwen2")[..4].to_vec();
    let reference = decoder.logps(&pack(&pairs), Pass::Reference).unwrap();
    let weigh = |batch: &PackedBatch, logps: &[f64], reference: &[f64]| {
        Objective::default().weigh(&batch.scored_completions(logps, Some(reference)).unwrap()).unwrap()
    };
    let at = |label: f32| -> (f64, Vec<f32>) {
        let labelled: Vec<Example> =
            pairs.iter().map(|pair| Example { kind: Kind::pair(label), ..pair.clone() }).collect();
        let batch = pack(&labelled);
        let (logps, tape) = decoder.forward(&batch, Training::default()).unwrap();
        let found = weigh(&batch, &logps, &reference);
        let mut gradient = vec![0.0; decoder.trained().values().len()];
        decoder.backward(tape, &batch, &found.d_logps, &mut gradient).unwrap();
        (found.losses.iter().sum(), gradient)
    };
    let (yes, no, mixed) = (at(1.0), at(0.0), at(0.3));
    let (y, n) = (f64::from(0.3f32), 1.0 - f64::from(0.3f32));
    assert!((mixed.0 - (y * yes.0 + n * no.0)).abs() < 1e-12 * mixed.0);
    let largest = yes.1.iter().chain(&no.1).fold(0.0f32, |m, g| m.max(g.abs()));
    for ((mixed, yes), no) in mixed.1.iter().zip(&yes.1).zip(&no.1) {
        assert!((mixed - (0.3 * yes + 0.7 * no)).abs() <= 1e-5 * largest, "{mixed} {yes} {no}");
    }
    // Label 0 equals label 1 with the completions exchanged.
    let swapped: Vec<Example> = pairs
        .iter()
        .map(|pair| Example { completions: pair.completions.iter().rev().cloned().collect(), ..pair.clone() })
        .collect();
    let (logps, refs) =
        (decoder.logps(&pack(&swapped), Pass::Policy), decoder.logps(&pack(&swapped), Pass::Reference));
    let (logps, refs) = (logps.unwrap(), refs.unwrap());
    let loss: f64 = weigh(&pack(&swapped), &logps, &refs).losses.iter().sum();
    assert!((loss - no.0).abs() < 1e-12 * loss, "{loss} {}", no.0);
}
