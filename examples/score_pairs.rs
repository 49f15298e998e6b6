//! Log-probs of preference pairs under a base, with and without an adapter.
//!
//!     cargo run --release --example score_pairs [PAIRS.jsonl [BASE_DIRECTORY [ADAPTER_DIRECTORY]]]
#![allow(clippy::print_stdout)]

use std::path::Path;

use dpo_lora::adapter::peft;
use dpo_lora::data::{ChatTokenizer, PackedBatch, Sources, records, source, tokenize};
use dpo_lora::error::Result;
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use dpo_lora::trainable::Policy;
use dpo_lora::weights::SafetensorsSource;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let argument = |i: usize, default: &str| arguments.get(i).map_or_else(|| root.join(default), Into::into);
    let data = argument(0, "examples/tiny-reviews/eval.jsonl");
    let base = argument(1, "examples/tiny-reviews/model");
    let adapter = argument(2, "adapters/tiny-reviews-favourable");

    let spec = families::spec(&ConfigJson::open(&base)?)?;
    let decoder = Decoder::load(spec, &SafetensorsSource::open(&base)?, None)?;
    let adapters = Policy::of(peft::read(&adapter, decoder.spec())?.adapters);
    let tokenizer = ChatTokenizer::load(&base, None)?;

    let records = records::load(&source::resolve(&Sources::from(data.display().to_string()))?)?;
    println!("{:>12} {:>12} {:>12} {:>12}", "chosen", "rejected", "ref chosen", "ref rejected");
    for record in records.iter().take(5) {
        // A prefix tree: the prompt once, both completions behind it.
        let batch = PackedBatch::new(&[&tokenize(&tokenizer, record)?]);
        let policy = decoder.logps(&batch, &adapters, Pass::Policy)?;
        let reference = decoder.logps(&batch, &adapters, Pass::Reference)?;
        let columns: Vec<String> =
            policy.iter().chain(&reference).map(|logp| format!("{logp:12.4}")).collect();
        println!("{}", columns.join(" "));
    }
    Ok(())
}
