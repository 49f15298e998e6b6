//! The cost of a training step on a card, from a device that only counts: launches, bytes and arithmetic for the shapes
//! of a 0.5B, a 1B and an 8B model, and the memory of the run. `cargo test --release --test launch_plan -- --nocapture`
//! prints it.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::sync::Arc;

use dpo_lora::data::{Example, Origin, PackedBatch};
use dpo_lora::device::measure::Rates;
use dpo_lora::device::profile;
use dpo_lora::error::{Error, Result};
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::engine::Plan;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::inventory;
use dpo_lora::model::spec::DecoderSpec;
use dpo_lora::trainable::{Adapters, Lora, Policy};
use dpo_lora::weights::{DType, FileStamp, FrozenWeight, Stored, WeightSource};
use memmap2::MmapOptions;

/// Zeros in bf16 that take no memory, because their pages were never written.
struct Zeros(BTreeMap<String, Vec<usize>>);

impl WeightSource for Zeros {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).cloned()
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        let shape = self.shape(name).ok_or_else(|| Error::Weights(name.into()))?;
        let bytes = 2 * shape.iter().product::<usize>();
        let map = MmapOptions::new().len(bytes).map_anon().unwrap().make_read_only().unwrap();
        FrozenWeight::from_file(&Arc::new(map), 0, bytes, DType::Bf16, &shape)
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        Err(Error::Weights(name.into()))
    }

    fn files(&self) -> Vec<FileStamp> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "zeros".into()
    }
}

fn shapes(spec: &DecoderSpec) -> BTreeMap<String, Vec<usize>> {
    let linears: BTreeMap<&str, (usize, usize)> =
        spec.linears().chain(&spec.head).map(|l| (l.module.as_str(), (l.outputs, l.inputs))).collect();
    let shape = |name: &String| {
        let (module, part) = name.rsplit_once('.').unwrap();
        match (linears.get(module), part) {
            (Some((outputs, inputs)), "weight") => vec![*outputs, *inputs],
            (Some((outputs, _)), _) => vec![*outputs],
            (None, _) if module == spec.embedding => vec![spec.vocab_size, spec.hidden],
            (None, _) => vec![spec.hidden],
        }
    };
    inventory::tensors(spec).iter().map(|name| (name.clone(), shape(name))).collect()
}

/// Creates a decoder with a configuration's shape, and an adapter of rank 16 on all linear layers.
fn decoder(config: &str) -> (Decoder, Policy) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config).unwrap();
    let spec = families::spec(&ConfigJson::open(directory.path()).unwrap()).unwrap();
    let source = Zeros(shapes(&spec));
    let decoder = Decoder::load(spec.clone(), &source, None).unwrap();
    let loras = spec.linears().map(|linear| Lora::new(linear, 16, 32.0, 2.0));
    (decoder, Policy::of(Adapters::zeros(loras).unwrap()))
}

fn llama(hidden: usize, ffn: usize, heads: usize, layers: usize, tied: bool) -> String {
    format!(
        r#"{{"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":{hidden},"intermediate_size":{ffn},
        "num_attention_heads":{heads},"num_key_value_heads":8,"num_hidden_layers":{layers},"vocab_size":128256,
        "max_position_embeddings":8192,"rms_norm_eps":1e-5,"rope_theta":500000.0,"hidden_act":"silu",
        "tie_word_embeddings":{tied}}}"#
    )
}

const QWEN: &str = r#"{"model_type":"qwen2","architectures":["Qwen2ForCausalLM"],"hidden_size":896,"intermediate_size":4864,
    "num_attention_heads":14,"num_key_value_heads":2,"num_hidden_layers":24,"vocab_size":151936,
    "max_position_embeddings":32768,"rms_norm_eps":1e-6,"rope_theta":1000000.0,"hidden_act":"silu",
    "tie_word_embeddings":true}"#;

/// Creates `pairs` pairs with prompts of `prompt` tokens and completions of `completion`.
fn batch(pairs: usize, prompt: usize, completion: usize) -> PackedBatch {
    let example = Example {
        prompt: vec![1; prompt],
        completions: vec![vec![1; completion], vec![1; completion]],
        kind: dpo_lora::data::Kind::PAIR,
        origin: Origin::new("test", 1),
    };
    PackedBatch::new(&vec![&example; pairs])
}

/// Returns the plan after comparing it with what the step must compute: two products with every weight for the policy's
/// tokens and one for the reference's, and the head only at scored tokens.
fn planned(name: &str, (decoder, policy): &(Decoder, Policy), batch: &PackedBatch, recompute: bool) -> Plan {
    let plan = decoder.plan(batch, policy, recompute, 2, Rates::default()).unwrap();
    let weights: usize = decoder.spec().linears().map(|linear| linear.inputs * linear.outputs).sum();
    let (rows, scored) = (batch.tokens.len(), batch.scored_rows.len());
    let passes = if recompute { 4 } else { 3 };
    let must = 2 * passes * weights * rows + 6 * scored * decoder.spec().hidden * decoder.spec().vocab_size;
    let done: usize = plan.work.iter().filter(|e| e.name.starts_with("product")).map(|e| e.flop).sum();
    // The ranks are added, and the gradient of the first block's input is not needed.
    let share = done as f64 / must as f64;
    assert!((0.97..1.06).contains(&share), "{name}: {share}");
    let launches: usize = plan.work.iter().map(|entry| entry.launches).sum();
    let layers = decoder.spec().layers.len();
    assert!(launches < (if recompute { 85 } else { 70 }) * layers + 60, "{name}: {launches} launches");
    eprintln!(
        "\n{name}: {rows} rows, {scored} scored{}\nweights {:.2} GB, activations {:.2}, scratch {:.2}, optimizer {:.2}; {:.2} in all",
        if recompute { ", recomputed" } else { "" },
        plan.weights as f64 / 1e9,
        plan.activations as f64 / 1e9,
        plan.scratch as f64 / 1e9,
        plan.optimizer as f64 / 1e9,
        plan.total() as f64 / 1e9,
    );
    eprintln!("{}", profile::table(&plan.work, plan.seconds()));
    plan
}

#[test]
fn half_a_billion() {
    let decoder = decoder(QWEN);
    let short = planned("0.5B short, batch 4", &decoder, &batch(4, 64, 64), false);
    assert!(short.seconds() < 0.02, "{}", short.seconds());
    let long = planned("0.5B long, batch 16", &decoder, &batch(16, 384, 48), false);
    assert!(long.seconds() < 0.07, "{}", long.seconds());
    // More rows than a grid has blocks in its second dimension.
    planned("0.5B long, batch 160", &decoder, &batch(160, 384, 48), true);
}

#[test]
fn a_billion() {
    let decoder = decoder(&llama(2048, 8192, 32, 16, true));
    let long = planned("1B long, batch 16", &decoder, &batch(16, 384, 48), false);
    assert!(long.seconds() < 0.13, "{}", long.seconds());
    assert!((2.6e9..2.8e9).contains(&(long.weights as f64)), "{}", long.weights);
}

/// Prints what fits on which card.
#[test]
fn eight_billion() {
    let decoder = decoder(&llama(4096, 14336, 32, 32, false));
    let whole = planned("8B long, batch 8", &decoder, &batch(8, 384, 48), false);
    assert!(whole.total() < 40_000_000_000, "{}", whole.total());
    let again = planned("8B long, batch 8", &decoder, &batch(8, 384, 48), true);
    assert!(again.total() < 22_000_000_000, "{}", again.total());
    assert!(again.seconds() > 1.2 * whole.seconds());
}
