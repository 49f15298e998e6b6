//! What is trained other than by low-rank matrices alone: prefix tuning, adapter layers, and whole tensors and rows of
//! embedding and head. PEFT's files and numbers, gradients, invariants, merges and refusals.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

#[path = "trainables/program.rs"]
mod program;

use std::path::Path;

use common::{
    Model, adapt, assert_near, decoder, examples, fixture, ids, json, load, logps, numbers, pack, random_lora,
};
use dpo_lora::adapter::merge::{self, MergeOptions};
use dpo_lora::adapter::peft::{self, Origin};
use dpo_lora::adapter::{gguf, mlx};
use dpo_lora::data::{ChatTokenizer, Example, Kind, PackedBatch};
use dpo_lora::generate::{Limits, Request, SamplingConfig, complete, complete_all};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::pass::Pass;
use dpo_lora::ops::gated_act::Activation;
use dpo_lora::random::Stream;
use dpo_lora::trainable::{Adapter, Adapters, Bottleneck, Dropout, Lora, TokenRows, Whole};
use dpo_lora::weights::{DType, SafetensorsSource, WeightSource};
use serde_json::Value;

/// An example with the log-probs of all tokens but the first, and a sibling.
fn example(model: &Path, ids: &[u32]) -> Example {
    Example {
        prompt: ids[..1].to_vec(),
        completions: vec![ids[1..].to_vec(), vec![3, 4]],
        kind: Kind::PAIR,
        ..examples("pairs.jsonl", model)[0].clone()
    }
}

fn norm(gradient: &[f32]) -> f64 {
    gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn adapters_of_peft_have_its_log_probs_gradients_and_texts() {
    let expected = json("trainables/expected.json");
    for (name, case) in expected.as_object().unwrap() {
        let base = case["base"].as_str().unwrap();
        let mut model = decoder(base);
        adapt(&mut model, &fixture("trainables").join(name));
        let (ids, want) = (ids(&case["ids"]), numbers(&case["logps"]));
        assert_near(&logps(&model, &ids, Pass::Policy), &want, 1e-5, name);
        let plain = logps(&model, &ids, Pass::Reference);
        assert_near(&plain, &logps(&decoder(base), &ids, Pass::Policy), 0.0, "the reference is the base");
        let apart: f64 = plain.iter().zip(&want).map(|(a, b)| (a - b).abs()).sum();
        assert!(apart > 0.1, "{name}: the adapter changes something");

        // Behind another tree, so that the rows of keys begin elsewhere.
        let own = example(&fixture("models").join(base), &ids);
        let other = Example { prompt: vec![7, 8], completions: vec![vec![9], vec![10, 11]], ..own.clone() };
        let batch = pack(&[other, own]);
        let (sums, tape) = model.forward(&batch, Training::default()).unwrap();
        assert!((sums[2] - want.iter().sum::<f64>()).abs() < 5e-5, "{name}: {}", sums[2]);
        let gradient = model.gradient(tape, &batch, &[0.0, 0.0, 1.0, 0.0]);
        let of_peft = case["gradient"].as_object().unwrap();
        if name.starts_with("projected") {
            // The file has keys and values, whose gradient PEFT does not give; the next test has that of the network.
        } else if name.starts_with("prefix") {
            let want = of_peft["prompt_encoder.embedding.weight"].as_f64().unwrap();
            let found = norm(&gradient);
            assert!((found - want).abs() <= 1e-4 * want, "{name}: {found} against {want}");
        } else {
            let entries = model.trained().store().entries();
            assert_eq!(entries.len(), of_peft.len(), "{name}");
            for entry in entries {
                let found = norm(&gradient[entry.range.clone()]);
                let want = of_peft[&entry.name].as_f64().unwrap();
                let near = (found - want).abs() <= 1e-4 * want + 1e-6;
                assert!(near, "{name} {}: {found} against {want}", entry.name);
            }
        }
        let text = self::ids(&case["text"]);
        let (mut cache, mut next) = (model.new_cache(), Vec::new());
        let mut logits = model.step(&ids[..4], &mut cache, Pass::Policy).unwrap();
        for _ in 0..text.len() {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
            next.push(best);
            logits = model.step(&[best], &mut cache, Pass::Policy).unwrap();
        }
        assert_eq!(next, text, "{name}");
    }
}

/// The network that PEFT trained, in our store.
fn network_of_peft(model: &Decoder, directory: &Path) -> Adapters {
    let set = peft::projected_prefixes(model.spec(), 5, Some(6)).unwrap();
    let mut set = Adapters::zeros(set).unwrap();
    let source = SafetensorsSource::open_files(directory, &[directory.join("network.safetensors")]).unwrap();
    let tensor = |name: &str| source.get(name).unwrap().elements().to_f32();
    let layers: Vec<String> =
        model.spec().layers.iter().map(|layer| format!("{}.", layer.attention.module())).collect();
    let entries = set.store().entries().to_vec();
    set.update(|values| {
        for entry in &entries {
            let whole = match layers.iter().position(|layer| entry.name.starts_with(layer)) {
                None => tensor(&entry.name),
                // A row of the last map for each number of a layer's key and value, in order of the layers.
                Some(index) => {
                    let all = tensor(&entry.name.replacen(&layers[index], "prompt_encoder.", 1));
                    all[index * entry.range.len()..(index + 1) * entry.range.len()].to_vec()
                }
            };
            values[entry.range.clone()].copy_from_slice(&whole);
        }
    });
    set
}

#[test]
fn the_network_in_front_of_a_prefix_has_the_log_probs_and_gradients_of_peft() {
    let expected = json("trainables/expected.json");
    let cases = expected.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("projected"));
    let mut seen = 0;
    for (name, case) in cases {
        let base = case["base"].as_str().unwrap();
        let mut model = decoder(base);
        let directory = fixture("trainables").join(name);
        model.train(network_of_peft(&model, &directory));
        let (ids, want) = (ids(&case["ids"]), numbers(&case["logps"]));
        assert_near(&logps(&model, &ids, Pass::Policy), &want, 1e-5, name);
        let batch = pack(&[example(&fixture("models").join(base), &ids)]);
        let (_, tape) = model.forward(&batch, Training::default()).unwrap();
        let gradient = model.gradient(tape, &batch, &[1.0, 0.0]);
        for (of_peft, want) in case["gradient"].as_object().unwrap() {
            let last = of_peft.trim_start_matches("prompt_encoder.");
            let entries = model.trained().store().entries().iter();
            let parts: Vec<f32> = entries
                .filter(|entry| entry.name.ends_with(last))
                .flat_map(|entry| gradient[entry.range.clone()].to_vec())
                .collect();
            let (found, want) = (norm(&parts), want.as_f64().unwrap());
            assert!((found - want).abs() <= 1e-4 * want, "{name} {of_peft}: {found} against {want}");
        }
        // What is written is what PEFT wrote: keys and values.
        let place = tempfile::tempdir().unwrap();
        peft::write(place.path(), model.trained(), model.spec(), 0.0, &Origin::default()).unwrap();
        let [ours, theirs] = [place.path(), &directory]
            .map(|directory| peft::read(directory, model.spec()).unwrap().adapters.values().to_vec());
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(ours.len() == theirs.len() && apart < 1e-5, "{name}: {apart}");
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// What can be trained, with the name that tests show.
const KINDS: [&str; 5] = ["prefix", "projected", "layers", "whole", "rows"];

/// Adapters of a kind as they start.
fn begun(decoder: &Decoder, kind: &str) -> Adapters {
    begun_with(decoder, kind, &[17, 45, 9, 4])
}

/// The same, with rows of these tokens.
fn begun_with(decoder: &Decoder, kind: &str, tokens: &[u32]) -> Adapters {
    let spec = decoder.spec();
    let head = spec.head_linear();
    let lora = |linear| Adapter::from(Lora::new(linear, 2, 5.0, 2.5));
    let adapters: Vec<Adapter> = match kind {
        "prefix" => peft::prefixes(spec, 4).unwrap().into_iter().map(Adapter::from).collect(),
        "projected" => peft::projected_prefixes(spec, 4, Some(7)).unwrap(),
        "layers" => spec
            .layers
            .iter()
            .flat_map(|layer| [&layer.attention.output, layer.mlp.down()])
            .map(|linear| Bottleneck::new(linear, 5, Activation::Gelu).into())
            .collect(),
        "whole" => {
            let embedding = Whole::new(spec.embedding.clone(), (spec.vocab_size, spec.hidden), false);
            let whole = Whole::new(head.module.clone(), (head.outputs, head.inputs), head.bias);
            spec.linears().take(2).map(lora).chain([embedding.into(), whole.into()]).collect()
        }
        _ => {
            let rows = TokenRows::new(spec.embedding.clone(), tokens.to_vec(), spec.hidden);
            spec.linears().take(2).map(lora).chain([rows.into()]).collect()
        }
    };
    Adapters::initialised_on(adapters, 3, |module| decoder.linear(module)).unwrap()
}

/// The same after some steps.
fn moved(decoder: &Decoder, kind: &str) -> Adapters {
    after_steps(begun(decoder, kind), kind)
}

fn after_steps(mut set: Adapters, kind: &str) -> Adapters {
    let stream = Stream::new(5, kind);
    set.update(|values| {
        for (i, value) in values.iter_mut().enumerate() {
            *value += 0.3 * stream.uniform(i as u64) - 0.15;
        }
    });
    set
}

fn pairs(model: &str) -> Vec<Example> {
    examples("pairs.jsonl", &fixture("models").join(model))
}

/// Log-probs and the gradient of `Σ ±logp`.
fn pass(model: &Model, batch: &PackedBatch, training: Training) -> (Vec<f64>, Vec<f32>) {
    let (logps, tape) = model.forward(batch, training).unwrap();
    let gradient = model.gradient(tape, batch, &weights(logps.len()));
    (logps, gradient)
}

fn weights(count: usize) -> Vec<f64> {
    (0..count).map(|i| if i % 2 == 0 { 0.75 } else { -0.5 }).collect()
}

/// Families with every place where a kind acts: tied and untied heads, learned positions, windows, soft-caps, parallel
/// blocks, norms behind branches, fused projections, biases of heads, factors of embeddings and logits.
const FAMILIES: [&str; 8] = ["llama", "gpt2", "gemma2", "mistral", "gpt_neox", "gptj", "granite", "opt"];

#[test]
fn every_tensor_of_every_kind_agrees_with_finite_differences() {
    for name in FAMILIES {
        for kind in KINDS {
            let mut model = decoder(name);
            let batch = pack(&[0, 2].map(|i: usize| pairs(name)[i].clone()));
            // Tokens of the batch, and one that it does not have.
            let mut tokens = batch.tokens.clone();
            tokens.sort_unstable();
            tokens.dedup();
            let absent = (0..).find(|token| !tokens.contains(token)).unwrap();
            let tokens = [tokens[1], absent, tokens[0]];
            model.train(after_steps(begun_with(&model, kind, &tokens), kind));
            let (logps, gradient) = pass(&model, &batch, Training::default());
            let weights = weights(logps.len());
            let loss = |model: &Model| -> f64 {
                let logps = model.logps(&batch, Pass::Policy).unwrap();
                logps.iter().zip(&weights).map(|(logp, weight)| logp * weight).sum()
            };
            for entry in model.trained().store().entries().to_vec() {
                let what = format!("{name} {kind} {}", entry.name);
                // Along the gradient's signs, over the numbers that have one.
                let part = &gradient[entry.range.clone()];
                let along: Vec<(usize, f32)> = entry
                    .range
                    .clone()
                    .zip(part)
                    .filter(|(_, g)| **g != 0.0)
                    .map(|(i, g)| (i, g.signum()))
                    .collect();
                let want: f64 = part.iter().map(|g| f64::from(g.abs())).sum();
                assert!(!along.is_empty(), "{what} has no gradient");
                let mut central = |h: f32| {
                    let mut at = |h: f32| {
                        let before = model.trained().values().to_vec();
                        model
                            .policy
                            .trained
                            .update(|values| along.iter().for_each(|(i, d)| values[*i] += d * h));
                        let found = loss(&model);
                        model.policy.trained.update(|values| values.copy_from_slice(&before));
                        found
                    };
                    (at(h) - at(-h)) / (2.0 * f64::from(h))
                };
                let step = (0.02 / want as f32).clamp(3e-3, 4e-2) / (along.len() as f32).sqrt();
                let found = (4.0 * central(step) - central(2.0 * step)) / 3.0;
                assert!((found - want).abs() <= 4e-3 * want + 2e-3, "{what}: {found} against {want}");
            }
        }
    }
}

#[test]
fn recomputation_and_threads_change_no_bit_also_with_dropout() {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (one, three) = (pool(1), pool(3));
    let dropout = Dropout { probability: 0.25, stream: Stream::new(7, "dropout") };
    for name in ["llama", "gpt2", "gemma2"] {
        for kind in KINDS {
            let mut model = decoder(name);
            model.train(moved(&model, kind));
            let batch = pack(&pairs(name)[..5]);
            for dropout in [None, Some(dropout)] {
                let of = |recompute: bool| {
                    pass(&model, &batch, Training { dropout, recompute, ..Training::default() })
                };
                let (kept, again) = (one.install(|| of(false)), three.install(|| of(true)));
                assert_eq!(
                    kept.0.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                    again.0.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                );
                assert_eq!(kept.1, again.1, "{name} {kind}");
                assert!(kept.1.iter().any(|x| *x != 0.0));
            }
            let with = pass(&model, &batch, Training { dropout: Some(dropout), ..Training::default() });
            assert_eq!(
                with.0 == model.logps(&batch, Pass::Policy).unwrap(),
                ["prefix", "projected"].contains(&kind),
                "{name} {kind}"
            );
        }
    }
}

#[test]
fn a_pairs_bits_do_not_depend_on_its_batch() {
    for name in ["llama", "gpt2", "mistral"] {
        for kind in KINDS {
            let mut model = decoder(name);
            model.train(moved(&model, kind));
            let pairs = pairs(name);
            let together = model.logps(&pack(&pairs), Pass::Policy).unwrap();
            for (i, pair) in pairs.iter().enumerate() {
                let alone = model.logps(&pack(std::slice::from_ref(pair)), Pass::Policy).unwrap();
                assert_eq!(alone, together[2 * i..2 * i + 2], "{name} {kind} {i}");
            }
        }
    }
}

#[test]
fn at_the_start_the_policy_is_the_reference_to_the_bit_except_with_a_prefix() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for name in ["llama", "gpt2", "gptj"] {
            for kind in KINDS {
                let mut model = load(&fixture("models").join(name), dtype);
                model.train(begun(&model, kind));
                let batch = pack(&pairs(name)[..4]);
                let (policy, _) = model.forward(&batch, Training::default()).unwrap();
                let reference = model.logps(&batch, Pass::Reference).unwrap();
                assert_eq!(
                    policy == reference,
                    !["prefix", "projected"].contains(&kind),
                    "{name} {kind} {dtype:?}"
                );
            }
        }
    }
}

#[test]
fn half_precision_bases_take_every_kind() {
    for dtype in [DType::Bf16, DType::F16] {
        for kind in KINDS {
            let batch = pack(&pairs("llama")[..3]);
            let [wide, narrow] = [DType::F32, dtype].map(|dtype| {
                let mut model = load(&fixture("models").join("llama"), dtype);
                let exact = decoder("llama");
                model.train(moved(&exact, kind));
                pass(&model, &batch, Training::default())
            });
            let apart: f64 =
                wide.1.iter().zip(&narrow.1).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
            assert!(apart <= 0.05 * norm(&wide.1), "{kind} {dtype:?}: {apart} of {}", norm(&wide.1));
        }
    }
}

#[test]
fn files_give_everything_back() {
    for name in ["llama", "gpt2", "gemma2", "gptj"] {
        for kind in KINDS {
            let mut model = decoder(name);
            model.train(moved(&model, kind));
            let place = tempfile::tempdir().unwrap();
            peft::write(place.path(), model.trained(), model.spec(), 0.1, &Origin::default()).unwrap();
            let found = peft::read(place.path(), model.spec()).unwrap();
            if kind == "projected" {
                // The file has the keys and values; a checkpoint has the network too.
                let plain = model.trained().shared().unwrap().unwrap();
                assert_eq!(found.adapters.values(), plain.values());
                assert!(!begun(&model, kind).restore(&found.adapters).unwrap());
                continue;
            }
            assert!(found.notes.is_empty() || kind == "whole" || kind == "rows", "{:?}", found.notes);
            assert_eq!(found.adapters.values(), model.trained().values(), "{name} {kind}");
            let mut again = begun(&model, kind);
            assert!(again.restore(&found.adapters).unwrap(), "{name} {kind}");
            assert_eq!(again.values(), model.trained().values());
        }
    }
}

/// With `TRAINABLES_OUT=DIRECTORY` the adapters are kept there as `KIND-BASE`, for
/// `tests/parity/trainables.py tests/fixtures --check BASE DIRECTORY/KIND-BASE`, whose outputs are in `trainables/ours.json`.
#[test]
fn peft_loads_what_is_written_with_the_same_log_probs() {
    let place = tempfile::tempdir().unwrap();
    let directory = std::env::var("TRAINABLES_OUT").map_or(place.path().to_path_buf(), Into::into);
    let cases =
        [("llama", "prefix"), ("gemma2", "prefix"), ("llama", "whole"), ("gptj", "whole"), ("gpt2", "rows")];
    let models = cases.map(|(name, kind)| {
        let mut model = decoder(name);
        model.train(moved(&model, kind));
        let to = directory.join(format!("{kind}-{name}"));
        peft::write(&to, model.trained(), model.spec(), 0.0, &Origin::default()).unwrap();
        model
    });
    let want = json("trainables/ours.json");
    for ((name, kind), model) in cases.iter().zip(&models) {
        let want = &want[format!("{kind}-{name}")];
        let found = logps(model, &ids(&want["ids"]), Pass::Policy);
        assert_near(&found, &numbers(&want["logps"]), 1e-5, &format!("{kind} {name}"));
    }
}

#[test]
fn whole_tensors_and_rows_merge_into_the_base_and_ties_are_cut_where_they_must_be() {
    for (name, kind) in
        [("llama", "whole"), ("gpt2", "whole"), ("gptj", "whole"), ("llama", "rows"), ("gpt2", "rows")]
    {
        let mut model = decoder(name);
        model.train(moved(&model, kind));
        let directory = fixture("models").join(name);
        let source = SafetensorsSource::open(&directory).unwrap();
        let base = merge::Base { directory: &directory, source: &source, spec: model.spec() };
        let place = tempfile::tempdir().unwrap();
        let output = place.path().join("merged");
        let options = MergeOptions { dtype: Some(DType::F32), ..MergeOptions::default() };
        let report = merge::merge(&base, &[(model.trained(), 1.0)], &output, &options).unwrap();
        let merged = load(&output, DType::F32);
        assert_eq!(merged.spec().head.is_none(), name == "gpt2" && kind == "rows");
        let batch = pack(&pairs(name)[..4]);
        let found = merged.logps(&batch, Pass::Policy).unwrap();
        assert_near(&found, &model.logps(&batch, Pass::Policy).unwrap(), 1e-4, &format!("{name} {kind}"));
        let written = SafetensorsSource::open(&output).unwrap();
        merge::weights::check(&base, &[(model.trained(), 1.0)], (&written, merged.spec()), &report).unwrap();
        let again = place.path().join("again");
        let error = merge::merge(&base, &[(model.trained(), 0.5)], &again, &options).unwrap_err().to_string();
        assert!(error.contains("weighted by 0.5"), "{error}");
    }
}

/// The positions of the model are those of the virtual tokens too.
#[test]
fn generation_ends_at_the_last_position_behind_a_prefix() {
    let mut model = decoder("llama");
    let tokenizer = ChatTokenizer::load(fixture("models/llama"), None).unwrap();
    let most = model.spec().max_positions;
    let sampling = SamplingConfig { temperature: 1.0, top_k: None, top_p: None, seed: 1 };
    let request = Request { prompt: vec![1, 17, 45], sampling, completions: 1 };
    let limits = Limits { max_new_tokens: 2 * most, eos: Vec::new(), stop: Vec::new() };
    for (kind, before) in [("rows", 0), ("prefix", 4), ("projected", 4)] {
        model.train(begun(&model, kind));
        let side = (&model.policy, Pass::Policy);
        let found = complete(&model.decoder, &tokenizer, &request, side, &limits).unwrap();
        assert_eq!(found.tokens.len(), most - 3 - before, "{kind}");
        let all = vec![request.clone()];
        let together = complete_all(&model.decoder, &tokenizer, &all, side, &limits).unwrap();
        assert_eq!(together[0].tokens, found.tokens, "{kind}");
    }
}

#[test]
fn two_adapters_do_not_replace_the_same_table() {
    let model = decoder("llama");
    let directory = fixture("models").join("llama");
    let source = SafetensorsSource::open(&directory).unwrap();
    let base = merge::Base { directory: &directory, source: &source, spec: model.spec() };
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("merged");
    for (one, other) in [("whole", "whole"), ("whole", "rows"), ("rows", "rows")] {
        let (one, other) = (moved(&model, one), moved(&model, other));
        let error = merge::merge(&base, &[(&one, 1.0), (&other, 1.0)], &output, &MergeOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("embed_tokens is replaced by adapter 1 and by adapter 2"), "{error}");
        assert!(!output.exists());
    }
    let (one, other) = (moved(&model, "whole"), random_lora(&model, 1));
    merge::merge(&base, &[(&one, 1.0), (&other, 0.5)], &output, &MergeOptions::default()).unwrap();
}

#[test]
fn what_cannot_hold_a_kind_refuses_it_by_name() {
    let model = decoder("llama");
    let directory = fixture("models").join("llama");
    let source = SafetensorsSource::open(&directory).unwrap();
    let base = merge::Base { directory: &directory, source: &source, spec: model.spec() };
    let place = tempfile::tempdir().unwrap();
    for (kind, word) in [
        ("prefix", "a prefix"),
        ("projected", "a prefix"),
        ("layers", "an adapter layer"),
        ("whole", "modules_to_save"),
        ("rows", "trainable_token"),
    ] {
        let set = moved(&model, kind);
        let origin = Origin::default();
        let gguf =
            gguf::write(&place.path().join("a.gguf"), &set, model.spec(), gguf::GgufType::F32, &origin);
        let error = gguf.err().unwrap().to_string();
        assert!(error.contains(word) && error.contains("GGUF"), "{error}");
        let error = mlx::write(place.path(), &set, model.spec(), &origin).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
        let error = Adapters::stacked(&[set.copy(), random_lora(&model, 1)]).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        if ["prefix", "projected", "layers"].contains(&kind) {
            let output = place.path().join("merged");
            let error = merge::merge(&base, &[(&set, 1.0)], &output, &MergeOptions::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(word) && !output.exists(), "{error}");
        }
    }
}

#[test]
fn settings_and_tensors_that_contradict_each_other_are_refused() {
    let model = decoder("llama");
    let refused = |from: &str, change: &dyn Fn(&mut Value)| {
        let from = fixture("trainables").join(from);
        let place = tempfile::tempdir().unwrap();
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(from.join(peft::CONFIG)).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(place.path().join(peft::CONFIG), config.to_string()).unwrap();
        std::fs::copy(from.join(peft::WEIGHTS), place.path().join(peft::WEIGHTS)).unwrap();
        peft::read(place.path(), model.spec()).err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(refused("prefix-llama", &|_| {}), "");
    for (from, key, value, word) in [
        ("prefix-llama", "num_virtual_tokens", Value::from(6), "num_virtual_tokens: 6"),
        ("prefix-llama", "token_dim", Value::from(32), "token_dim: 32"),
        ("prefix-llama", "num_layers", Value::from(2), "num_layers: 2"),
        ("prefix-llama", "num_transformer_submodules", Value::from(2), "num_transformer_submodules"),
        ("prefix-llama", "modules_to_save", serde_json::json!(["lm_head"]), "modules_to_save"),
        ("prefix-llama", "task_type", Value::from("SEQ_CLS"), "task_type"),
        ("prefix-llama", "peft_type", Value::from("P_TUNING"), "P_TUNING"),
        ("prefix-gemma2", "num_virtual_tokens", Value::from(5), "prompt_embeddings"),
        ("rows-llama", "trainable_token_indices", Value::Null, "trainable_tokens_delta"),
        ("rows-llama", "trainable_token_indices", serde_json::json!([1, 2]), "trainable_token_indices"),
        ("rows-llama", "trainable_token_indices", serde_json::json!([1, 2, 3, 3]), "twice"),
        ("rows-llama", "trainable_token_indices", serde_json::json!([1, 2, 3, 999]), "999"),
        ("whole-llama", "modules_to_save", Value::Null, "model.embed_tokens.weight"),
        ("whole-llama", "modules_to_save", serde_json::json!(["embed_tokens", "lm_head", "norm"]), "norm"),
    ] {
        let error = refused(from, &|config| config[key] = value.clone());
        assert!(error.contains(word), "{from} {key} {value}: {error}");
    }
}
