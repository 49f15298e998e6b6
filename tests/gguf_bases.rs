//! Bases in GGUF files compared with transformers (`tests/parity/gguf_bases.py`): architecture, tensors, tokenizer,
//! products.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Model, fixture, json, random_lora, zero_b_lora};
use dpo_lora::data::gguf::TokenizerFiles;
use dpo_lora::data::{Example, Origin, PackedBatch};
use dpo_lora::model::decoder::{Decoder, Training};
use dpo_lora::model::gguf::GgufModel;
use dpo_lora::model::pass::Pass;
use dpo_lora::weights::{DType, WeightSource};
use serde_json::Value;

const NAMES: [&str; 8] = ["gemma", "gemma2", "gemma3", "llama", "llama-k", "phi3", "qwen2", "qwen3"];

fn open(name: &str) -> GgufModel {
    GgufModel::open(&fixture("gguf").join(format!("{name}.gguf"))).unwrap()
}

fn decoder(model: &GgufModel, dtype: Option<DType>) -> Model {
    Decoder::load(model.spec.clone(), &model.source, dtype).unwrap().into()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The sequences of a fixture, and their log-probs.
fn sequences(expected: &Value) -> (PackedBatch, Vec<f64>) {
    let mut logps = Vec::new();
    let examples: Vec<Example> = expected["sequences"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(i, sequence)| {
            logps.extend(sequence["logps"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()));
            let completions = sequence["completions"].as_array().unwrap().iter().map(ids).collect();
            let prompt = ids(&sequence["prompt"]);
            Example {
                prompt,
                completions,
                kind: dpo_lora::data::Kind::PAIR,
                origin: Origin::new("gguf", i + 1),
            }
        })
        .collect();
    (PackedBatch::new(&examples.iter().collect::<Vec<_>>()), logps)
}

#[test]
fn dequantised_weights_give_transformers_log_probs() {
    let expected = json("gguf/expected.json");
    assert_eq!(expected.as_object().unwrap().len(), NAMES.len());
    for name in NAMES {
        let model = open(name);
        let (batch, want) = sequences(&expected[name]);
        let got = decoder(&model, Some(DType::F32)).logps(&batch, Pass::Policy).unwrap();
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 1e-3, "{name} completion {i}: {got} against {want}");
        }
    }
}

/// With quantised weights activations are rounded, those of attention to bf16. The result is within a percent here,
/// with random models of a few wide logits.
#[test]
fn quantised_weights_stay_near_them_forwards_and_backwards() {
    let expected = json("gguf/expected.json");
    for name in NAMES {
        let model = open(name);
        let (batch, want) = sequences(&expected[name]);
        let [mut quantised, mut wide] = [None, Some(DType::F32)].map(|dtype| decoder(&model, dtype));
        assert!(quantised.storage() != "f32" && wide.storage() == "f32", "{name}: {}", quantised.storage());
        let got = quantised.logps(&batch, Pass::Policy).unwrap();
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 0.01 * want.abs(), "{name} completion {i}: {got} against {want}");
        }
        let gradient = |decoder: &mut Model| {
            decoder.train(random_lora(decoder, 3));
            let (_, tape) = decoder.forward(&batch, Training::default()).unwrap();
            let mut gradient = vec![0.0; decoder.trained().values().len()];
            decoder.backward(tape, &batch, &vec![1.0; want.len()], &mut gradient).unwrap();
            gradient
        };
        let (got, want) = (gradient(&mut quantised), gradient(&mut wide));
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let apart = norm(&mut got.iter().zip(&want).map(|(g, w)| g - w)) / norm(&mut want.iter().copied());
        assert!(apart < 0.03, "{name}: gradients are {apart} apart");
        // At B = 0 policy and reference have the same bits, quantised or not.
        quantised.train(zero_b_lora(&quantised, 5));
        let both = [Pass::Policy, Pass::Reference].map(|pass| quantised.logps(&batch, pass).unwrap());
        assert_eq!(both[0], both[1]);
    }
}

#[test]
fn tokens_are_those_of_the_tokenizer_that_went_in() {
    let expected = json("gguf/expected.json");
    for name in NAMES {
        let tokenizer = TokenizerFiles::read(&open(name).file).unwrap().load(None).unwrap();
        for case in expected[name]["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let got = tokenizer.encode(text, true).unwrap();
            assert_eq!(got, ids(&case["ids"]), "{name} {text:?}");
        }
        assert!(tokenizer.adds_bos() && !tokenizer.adds_eos() && tokenizer.template().is_some(), "{name}");
        let text = "Wie heißt  das? 東京\n\n";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), true).unwrap(), text, "{name}");
    }
}

#[test]
fn the_configuration_says_what_the_model_was() {
    let config = |name| open(name).config;
    let llama = config("llama");
    assert_eq!(llama["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(llama["rope_scaling"]["factor"].as_f64(), Some(8.0));
    assert_eq!(llama["rope_scaling"]["original_max_position_embeddings"].as_f64(), Some(32.0));
    assert_eq!(llama["tie_word_embeddings"], false);
    let gemma = config("gemma3");
    assert_eq!(gemma["layer_types"][5], "full_attention");
    assert_eq!(
        (&gemma["layer_types"][4], &gemma["sliding_window"]),
        (&"sliding_attention".into(), &8.into())
    );
    assert_eq!(config("phi3")["sliding_window"], 12);
    // EOS, and the control token that llama.cpp recognises by its text.
    assert_eq!(TokenizerFiles::ends(&open("llama").file).unwrap(), [1, 4]);
    assert_eq!(TokenizerFiles::ends(&open("gemma3").file).unwrap(), [1]);
    let source = open("llama").source;
    assert_eq!(source.shape("model.layers.1.self_attn.k_proj.weight"), Some(vec![32, 64]));
    assert!(
        source.get("model.layers.2.mlp.up_proj.weight").unwrap_err().to_string().contains("no tensor for")
    );
}

/// Returns a fixture with every occurrence of `from` replaced by the same number of bytes.
fn changed(name: &str, from: &[u8], to: &[u8]) -> String {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(fixture("gguf").join(format!("{name}.gguf"))).unwrap();
    let at: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!at.is_empty(), "{name} has no {}", String::from_utf8_lossy(from));
    for at in at {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("changed.gguf");
    std::fs::write(&path, bytes).unwrap();
    let opened = GgufModel::open(&path).and_then(|model| {
        TokenizerFiles::read(&model.file)?.load(None)?;
        Decoder::load(model.spec.clone(), &model.source, None)
    });
    opened.map(|_| "accepted".to_string()).unwrap_or_else(|error| error.to_string())
}

/// Returns a number of the metadata by its key; type u32 is 4.
fn key(name: &str, value: u32) -> Vec<u8> {
    [name.as_bytes(), &4u32.to_le_bytes(), &value.to_le_bytes()].concat()
}

#[test]
fn files_that_contradict_themselves_are_refused_with_the_reason() {
    let text = |from: &str, to: &str| changed("llama", from.as_bytes(), to.as_bytes());
    let number = |name: &str, from, to| changed("llama", &key(name, from), &key(name, to));
    let cases = [
        (text("\u{5}\0\0\0\0\0\0\0llama", "\u{5}\0\0\0\0\0\0\0lamla"), "architecture \"lamla\""),
        (text("\u{5}\0\0\0\0\0\0\0model", "\u{5}\0\0\0\0\0\0\0adept"), "GGUF adept, not a model"),
        (text("llama.embedding_length", "llama.embedding_lengtX"), "no llama.embedding_length"),
        (text("llama.block_count", "llama.block_coumt"), "no llama.block_count"),
        (
            text("llama.attention.head_count\u{4}", "llama.attention.head_coumt\u{4}"),
            "no llama.attention.head_count",
        ),
        (text("token_embd.weight", "token_embd.height"), "no tensor token_embd.weight"),
        (text("output_norm.weight", "output_norm.height"), "output_norm.height"),
        (text("blk.1.ffn_up.weight", "blk.1.ffn_up.height"), "blk.1.ffn_up.height"),
        (text("rope_freqs.weight", "rope_frogs.weight"), "rope_frogs.weight"),
        (number("llama.embedding_length", 64, 96), "do they belong together"),
        (number("llama.embedding_length", 64, 0), "hidden_size"),
        (number("llama.feed_forward_length", 96, 95), "do they belong together"),
        (number("llama.block_count", 2, 1), "blk.1."),
        (number("llama.block_count", 2, 3), "blk.2."),
        (number("llama.block_count", 2, u32::MAX), "more than there are tensors"),
        (number("llama.attention.head_count", 4, 0), "num_attention_heads"),
        (number("llama.attention.head_count_kv", 2, 3), "does not divide"),
        (number("llama.attention.key_length", 16, u32::MAX), "attention."),
        (number("llama.attention.key_length", 16, 8), "attention."),
        (number("llama.context_length", 256, 0), "max_position_embeddings"),
        (text("tokenizer.ggml.model", "tokenizer.ggml.moddl"), "tokenizer.ggml.model is missing"),
        (text("tokenizer.ggml.tokens", "tokenizer.ggml.tokems"), "tokenizer.ggml.tokens is missing"),
        (text("tokenizer.ggml.merges", "tokenizer.ggml.mergez"), "tokenizer.ggml.merges is missing"),
        (text("\u{4}\0\0\0\0\0\0\0gpt2", "\u{4}\0\0\0\0\0\0\0bert"), "\"bert\" is not supported"),
        (text("\u{5}\0\0\0\0\0\0\0gpt-2", "\u{5}\0\0\0\0\0\0\0gpt-9"), "\"gpt-9\""),
        (number("tokenizer.ggml.eos_token_id", 1, 70_000), "eos_token_id is 70000"),
        (
            changed("gemma2", b"tokenizer.ggml.model", b"tokenizer.ggml.moddl"),
            "tokenizer.ggml.model is missing",
        ),
        (changed("phi3", b"tokenizer.ggml.scores", b"tokenizer.ggml.scorez"), "0 scores for"),
    ];
    for (i, (complaint, expected)) in cases.iter().enumerate() {
        assert!(complaint.contains(expected), "case {i}: {complaint:?} does not say {expected:?}");
    }
}
