//! What the integration tests share.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::print_stderr)]

pub mod device;
pub mod program;

use std::path::{Path, PathBuf};

use candle_core::Device;
use dpo_lora::adapter::peft;
use dpo_lora::data::{ChatTokenizer, Example, Input, PackedBatch, records, tokenize};
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::lora::{Lora, Slot};
use dpo_lora::model::pass::Frozen;
use dpo_lora::model::spec::DecoderSpec;
use dpo_lora::random::Stream;
use dpo_lora::weights::{DType, SafetensorsSource};
use serde_json::Value;

/// A file under `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

/// The names of the model fixtures, sorted.
pub fn models() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("models")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A model fixture with its weights as f32.
pub fn decoder(name: &str) -> Decoder {
    load(&fixture("models").join(name), DType::F32)
}

/// A model with its matrices stored as `dtype`.
pub fn load(directory: &Path, dtype: DType) -> Decoder {
    load_with(directory, dtype, |_| {})
}

/// The same, with a changed architecture.
pub fn load_with(directory: &Path, dtype: DType, change: impl FnOnce(&mut DecoderSpec)) -> Decoder {
    let mut spec = families::spec(&ConfigJson::open(directory).unwrap()).unwrap();
    change(&mut spec);
    let source = SafetensorsSource::open(directory).unwrap();
    Decoder::load(spec, &source, Some(dtype), &Device::Cpu).unwrap()
}

/// Reads an adapter of a model fixture as its trained adapter.
pub fn adapt(decoder: &mut Decoder, directory: &Path) {
    decoder.trained = Some(peft::read(directory, decoder.spec(), &Device::Cpu).unwrap().lora);
}

/// Reads an adapter as a frozen one.
pub fn freeze(decoder: &mut Decoder, directory: &Path, reference_only: bool) {
    let lora = peft::read(directory, decoder.spec(), &Device::Cpu).unwrap().lora;
    decoder.frozen.push(Frozen { lora, reference_only });
}

/// The examples of a data file under a tokenizer directory of the fixtures.
pub fn examples(data: &str, tokenizer: &Path) -> Vec<Example> {
    let tokenizer = ChatTokenizer::load(tokenizer, None).unwrap();
    let sources = dpo_lora::data::Sources::from(fixture(data).to_str().unwrap());
    let inputs: Vec<Input> = dpo_lora::data::source::resolve(&sources).unwrap();
    records::load(&inputs).unwrap().iter().map(|record| tokenize(&tokenizer, record).unwrap()).collect()
}

pub fn pack(examples: &[Example]) -> PackedBatch {
    PackedBatch::new(&examples.iter().collect::<Vec<_>>())
}

/// An adapter of every linear module, with B ≠ 0, ranks that differ and alpha ≠ rank.
pub fn random_lora(decoder: &Decoder, seed: u64) -> Lora {
    let mut lora = zero_b_lora(decoder, seed);
    let ranges: Vec<_> = lora.slots().iter().map(Slot::b).collect();
    let stream = Stream::new(seed, "lora_B of a test");
    lora.update(|values| {
        for i in ranges.into_iter().flatten() {
            values[i] = 0.4 * stream.uniform(i as u64) - 0.2;
        }
    })
    .unwrap();
    lora
}

/// The same as training starts with it: B = 0.
pub fn zero_b_lora(decoder: &Decoder, seed: u64) -> Lora {
    let slot = |(i, linear)| {
        let rank = 2 + i % 3;
        Slot::new(linear, rank, 5.0, 5.0 / rank as f64)
    };
    let slots = decoder.spec().linears().enumerate().map(slot).collect();
    Lora::initialised(slots, seed, &Device::Cpu).unwrap()
}
