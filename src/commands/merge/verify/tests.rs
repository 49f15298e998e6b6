use std::path::PathBuf;

use super::*;
use crate::adapter::merge::{MergeOptions, merge};
use crate::weights::DType;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn args(base: &Path, adapter: &Path) -> MergeArgs {
    use clap::Parser;
    let words =
        ["dpo-lora", "merge", "--output", "x", "--device", "cpu", "--base"].map(PathBuf::from).into_iter();
    let words = words.chain([base.to_path_buf(), "--adapter".into(), adapter.to_path_buf()]);
    let crate::cli::Command::Merge(args) = crate::cli::Cli::parse_from(words).command else {
        panic!("merge expected")
    };
    args
}

/// What goes wrong with a B, of so many columns.
type Fault = fn(&mut [f32], usize);

/// What is measured of a model into which `fault` of an adapter was merged instead of the adapter.
fn measured(name: &str, dtype: DType, fault: impl FnOnce(&mut Adapters)) -> (Effect, Bound) {
    let directory = fixture(name);
    let adapters = if directory.join("adapters").exists() { directory.clone() } else { fixture("llama") };
    let adapter = adapters.join("adapters/plain");
    let base = Base::open_with(&directory.to_string_lossy(), &OpenOptions::on_cpu()).unwrap();
    let (adapters, mut other) =
        (base.adapter(&adapter, true).unwrap(), base.adapter(&adapter, true).unwrap());
    fault(&mut other);
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("merged");
    let options = MergeOptions { dtype: Some(dtype), ..MergeOptions::default() };
    let from = merge::Base { directory: &directory, source: &*base.source, spec: &base.spec };
    merge(&from, &[(&other, 1.0)], &output, &options).unwrap();
    let merged =
        Base::open_with(&output.to_string_lossy(), &OpenOptions::on_cpu()).unwrap().decoder().unwrap();
    let (decoder, policy, _) = policy(&base, &[(&adapters, 1.0)]).unwrap();
    let (alone, adapted) = (Policy::default(), Side { decoder: &decoder, adapters: &policy });
    let probe = Probe::new(&base, adapted, &args(&directory, &adapter)).unwrap();
    let merged_side = Side { decoder: &merged, adapters: &alone };
    let models = Models { policy: adapted, base: adapted, merged: merged_side };
    (Effect::measure(&models, &probe).unwrap(), Bound::new(&decoder, &merged))
}

const FAMILIES: [&str; 18] = [
    "llama",
    "llama3",
    "llama-f16",
    "llama-sharded",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
    "smollm3",
    "granite",
    "stablelm",
    "gpt2",
    "gptj",
    "gpt_neox",
];

#[test]
fn every_family_is_within_its_bound_in_every_type() {
    let mut stretch = 0f64;
    for name in FAMILIES {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let (effect, bound) = measured(name, dtype, |_| {});
            let used = bound.used(&effect);
            bound.check(&effect).unwrap_or_else(|error| panic!("{name} {dtype:?}: {error}"));
            assert!((effect.share().unwrap() - 1.0).abs() < 0.05, "{name} {dtype:?}: {:?}", effect.share());
            stretch = stretch.max(used[0]);
        }
    }
    // A bound that nothing comes near would let faults through.
    assert!(stretch > 0.2, "the largest share of a bound that is used: {stretch}");
}

#[test]
fn a_fault_is_over_the_bound_of_16_bits() {
    let module = "model.layers.1.self_attn.q_proj";
    let on = |adapters: &Adapters, module: &str, change: Fault| {
        let lora = adapters.find_lora(module).unwrap().clone();
        move |values: &mut [f32]| change(&mut values[lora.b()], lora.rank)
    };
    let faults: [(&str, Fault); 3] = [
        ("not merged", |b, _| b.fill(0.0)),
        ("twice its alpha", |b, _| b.iter_mut().for_each(|b| *b *= 2.0)),
        ("rows elsewhere", |b, rank| b.rotate_left(rank * 2)),
    ];
    for (what, fault) in faults {
        for dtype in [DType::Bf16, DType::F16] {
            let (effect, bound) = measured("llama", dtype, |adapters| {
                let change = on(adapters, module, fault);
                adapters.update(change);
            });
            assert!(bound.check(&effect).is_err(), "{what} in {dtype:?}: {:?}", bound.used(&effect));
        }
    }
}

#[test]
fn half_of_the_adapter_is_half_of_its_effect() {
    let (effect, _) = measured("qwen2", DType::F32, |adapters| {
        adapters.update(|values| values.iter_mut().for_each(|x| *x *= 0.5f32.sqrt()));
    });
    let share = effect.share().unwrap();
    assert!((0.3..0.7).contains(&share), "{share}");
    let (effect, _) = measured("qwen2", DType::F32, |adapters| adapters.update(|values| values.fill(0.0)));
    assert!(effect.share().unwrap().abs() < 1e-3, "{:?}", effect.share());
    assert!((effect.lost() / effect.whole() - 1.0).abs() < 1e-3);
    assert_eq!(effect.changed, effect.fallen_back);
}
