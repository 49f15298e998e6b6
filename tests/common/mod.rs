//! Helpers of the integration tests.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::print_stderr)]

pub mod device;
pub mod http;
pub mod program;

use std::path::{Path, PathBuf};

use dpo_lora::adapter::peft;
use dpo_lora::data::dataset::Builder;
use dpo_lora::data::{
    ChatTokenizer, Dataset, Example, Findings, Ingest, Input, PackedBatch, Truncation, Wanted, records,
    tokenize,
};
use dpo_lora::error::Result;
use dpo_lora::model::cache::Cache;
use dpo_lora::model::decoder::{Decoder, Tape, Training};
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use dpo_lora::model::spec::DecoderSpec;
use dpo_lora::ops::Tensor;
use dpo_lora::random::Stream;
use dpo_lora::trainable::{Adapters, Frozen, Lora, Policy};
use dpo_lora::weights::{DType, SafetensorsSource};
use serde_json::Value;

/// Returns the path of a file under `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

/// Returns the numbers of a JSON array.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Returns the token ids of a JSON array.
pub fn ids(case: &Value) -> Vec<u32> {
    numbers(case).iter().map(|x| *x as u32).collect()
}

/// Returns the log-prob of every token but the first, computed token by token.
pub fn logps(model: &Model, ids: &[u32], pass: Pass) -> Vec<f64> {
    let mut cache = model.new_cache();
    let of = |pair: &[u32]| {
        let logits = model.step(&pair[..1], &mut cache, pass).unwrap();
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        f64::from(logits[pair[1] as usize]) - sum.ln()
    };
    ids.windows(2).map(of).collect()
}

pub fn assert_near(found: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), want.len(), "{what}");
    for (found, want) in found.iter().zip(want) {
        assert!((found - want).abs() <= tolerance, "{what}: {found} against {want}");
    }
}

/// Returns the names of the model fixtures, sorted.
pub fn models() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("models")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A base with the adapters that every pass applies.
pub struct Model {
    pub decoder: Decoder,
    pub policy: Policy,
}

impl std::ops::Deref for Model {
    type Target = Decoder;

    fn deref(&self) -> &Decoder {
        &self.decoder
    }
}

impl std::ops::DerefMut for Model {
    fn deref_mut(&mut self) -> &mut Decoder {
        &mut self.decoder
    }
}

impl From<Decoder> for Model {
    fn from(decoder: Decoder) -> Self {
        Self { decoder, policy: Policy::default() }
    }
}

impl Model {
    pub fn trained(&self) -> &Adapters {
        &self.policy.trained
    }

    pub fn train(&mut self, adapters: Adapters) {
        self.policy.trained = adapters;
    }

    pub fn logps(&self, batch: &PackedBatch, pass: Pass) -> Result<Vec<f64>> {
        self.decoder.logps(batch, &self.policy, pass)
    }

    pub fn logits(&self, batch: &PackedBatch, rows: &[u32], pass: Pass) -> Result<Tensor> {
        self.decoder.logits(batch, rows, &self.policy, pass)
    }

    pub fn step(&self, tokens: &[u32], cache: &mut Cache, pass: Pass) -> Result<Vec<f32>> {
        self.decoder.step(tokens, cache, &self.policy, pass)
    }

    pub fn forward(&self, batch: &PackedBatch, training: Training) -> Result<(Vec<f64>, Tape)> {
        self.decoder.forward(batch, &self.policy, training)
    }

    pub fn backward(
        &self,
        tape: Tape,
        batch: &PackedBatch,
        weights: &[f64],
        gradients: &mut [f32],
    ) -> Result<()> {
        self.decoder.backward(tape, batch, &self.policy, weights, gradients)
    }

    /// Returns the gradient of `Σ_c weights[c]·logps[c]`.
    pub fn gradient(&self, tape: Tape, batch: &PackedBatch, weights: &[f64]) -> Vec<f32> {
        let mut gradient = vec![0.0; self.trained().values().len()];
        self.backward(tape, batch, weights, &mut gradient).unwrap();
        gradient
    }
}

/// Loads a model fixture with its weights as f32.
pub fn decoder(name: &str) -> Model {
    load(&fixture("models").join(name), DType::F32)
}

/// Loads a model with its matrices stored as `dtype`.
pub fn load(directory: &Path, dtype: DType) -> Model {
    load_with(directory, dtype, |_| {})
}

/// Loads a model with a changed architecture.
pub fn load_with(directory: &Path, dtype: DType, change: impl FnOnce(&mut DecoderSpec)) -> Model {
    let mut spec = families::spec(&ConfigJson::open(directory).unwrap()).unwrap();
    change(&mut spec);
    let source = SafetensorsSource::open(directory).unwrap();
    Decoder::load(spec, &source, Some(dtype)).unwrap().into()
}

/// Reads an adapter of a model fixture as the trained adapter.
pub fn adapt(decoder: &mut Model, directory: &Path) {
    decoder.train(peft::read(directory, decoder.spec()).unwrap().adapters);
}

/// Reads an adapter as a frozen one.
pub fn freeze(decoder: &mut Model, directory: &Path, reference_only: bool) {
    let adapters = peft::read(directory, decoder.spec()).unwrap().adapters;
    decoder.policy.frozen.push(Frozen { adapters, reference_only });
}

/// Returns the examples of a data file, tokenized by a tokenizer directory of the fixtures.
pub fn examples(data: &str, tokenizer: &Path) -> Vec<Example> {
    let tokenizer = ChatTokenizer::load(tokenizer, None).unwrap();
    let sources = dpo_lora::data::Sources::from(fixture(data).to_str().unwrap());
    let inputs: Vec<Input> = dpo_lora::data::source::resolve(&sources).unwrap();
    records::load(&inputs)
        .unwrap()
        .iter()
        .map(|record| tokenize(&tokenizer, record).unwrap().example)
        .collect()
}

/// Returns records as examples, truncated to the limits, with the findings.
pub fn ingest(
    tokenizer: &ChatTokenizer,
    records: &[dpo_lora::data::Record],
    truncation: Truncation,
) -> (Dataset, Findings) {
    let mut builder = Builder::default();
    let ingest = Ingest { tokenizer, truncation, vocab_size: usize::MAX, limit: None, wanted: Wanted::Whole };
    let findings = ingest.records(records, &mut builder).unwrap();
    assert_eq!(findings.invalid.count, 0, "{findings:?}");
    (builder.finish("").unwrap(), findings)
}

pub fn pack(examples: &[Example]) -> PackedBatch {
    PackedBatch::new(&examples.iter().collect::<Vec<_>>())
}

/// Returns an adapter of every linear module, with B ≠ 0, different ranks and alpha ≠ rank.
pub fn random_lora(decoder: &Decoder, seed: u64) -> Adapters {
    let mut adapters = zero_b_lora(decoder, seed);
    let ranges: Vec<_> = adapters.loras("a test").unwrap().iter().map(|lora| lora.b()).collect();
    let stream = Stream::new(seed, "lora_B of a test");
    adapters.update(|values| {
        for i in ranges.into_iter().flatten() {
            values[i] = 0.4 * stream.uniform(i as u64) - 0.2;
        }
    });
    adapters
}

/// Returns the same adapter as at the start of training: B = 0.
pub fn zero_b_lora(decoder: &Decoder, seed: u64) -> Adapters {
    let lora = |(i, linear)| {
        let rank = 2 + i % 3;
        Lora::new(linear, rank, 5.0, 5.0 / rank as f64)
    };
    let loras = decoder.spec().linears().enumerate().map(lora);
    Adapters::initialised(loras, seed).unwrap()
}
