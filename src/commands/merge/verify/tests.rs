use std::path::PathBuf;

use super::*;
use crate::adapter::merge::{MergeOptions, merge};
use crate::trainable::{Adapter, Dora, Lora, Module, TokenRows, Whole};
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
    let base = Base::open_with(&directory.to_string_lossy(), &OpenOptions::on_cpu()).unwrap();
    let read = || base.adapter(&adapters.join("adapters/plain"), true).unwrap();
    let (adapters, mut other) = (read(), read());
    fault(&mut other);
    let (effect, bound, _) = merged(&base, dtype, &[(&other, 1.0)], &[(&adapters, 1.0)]);
    (effect, bound)
}

/// What is measured of a model into which `parts` were merged, where `meant` are compared.
fn merged(
    base: &Base,
    dtype: DType,
    parts: &[(&Adapters, f64)],
    meant: &[(&Adapters, f64)],
) -> (Effect, Bound, MergeReport) {
    let directory = PathBuf::from(&base.name);
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("merged");
    let options = MergeOptions { dtype: Some(dtype), ..MergeOptions::default() };
    let from = merge::Base { directory: &directory, source: &*base.source, spec: &base.spec };
    let report = merge(&from, parts, &output, &options).unwrap();
    let merged =
        Base::open_with(&output.to_string_lossy(), &OpenOptions::on_cpu()).unwrap().decoder().unwrap();
    let (decoder, policy, bare) = policy(base, meant).unwrap();
    let (alone, adapted) = (Policy::default(), Side { decoder: &decoder, adapters: &policy });
    let probe = Probe::new(base, adapted, &args(&directory, Path::new("none")), None).unwrap();
    let models = Models {
        policy: adapted,
        base: bare.as_ref().map_or(adapted, |bare| Side { decoder: bare, adapters: &alone }),
        merged: Side { decoder: &merged, adapters: &alone },
    };
    (Effect::measure(&models, &probe).unwrap(), Bound::new(&decoder, &merged), report)
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

/// Adapters with numbers that are not zero.
fn drawn(adapters: Vec<Adapter>) -> Adapters {
    let mut set = Adapters::zeros(adapters).unwrap();
    set.update(|values| values.iter_mut().enumerate().for_each(|(i, x)| *x = 0.1 * (i as f32 * 0.37).sin()));
    set
}

#[test]
fn an_adapted_head_beside_a_table_that_is_replaced_is_verified() {
    let open =
        |name: &str| Base::open_with(&fixture(name).to_string_lossy(), &OpenOptions::on_cpu()).unwrap();
    // The head of gemma3 is its embedding, and that of llama is its own.
    for name in ["gemma3", "llama"] {
        let base = open(name);
        let (vocabulary, hidden) = (base.spec.vocab_size, base.spec.hidden);
        let head = base.spec.head_linear().module;
        let module = Module { name: head.clone(), inputs: hidden, outputs: vocabulary };
        let lora = || Lora::new(module.clone(), 2, 4.0, 2.0);
        let rows = || TokenRows::new(base.spec.embedding.clone(), vec![3, 4, 200], hidden);
        let whole = |module: &str| Whole::new(module.into(), (vocabulary, hidden), false);
        for sets in [
            vec![drawn(vec![lora().into(), rows().into()])],
            vec![drawn(vec![Dora::new(lora()).into(), rows().into()])],
            vec![drawn(vec![whole(&head).into()]), drawn(vec![lora().into()])],
            vec![drawn(vec![lora().into(), whole(&base.spec.embedding).into()])],
        ] {
            let parts: Vec<(&Adapters, f64)> = sets.iter().map(|set| (set, 1.0)).collect();
            let (effect, bound, _) = merged(&base, DType::F32, &parts, &parts);
            let kinds: Vec<_> = sets.iter().flat_map(Adapters::iter).map(Adapter::kind).collect();
            bound.check(&effect).unwrap_or_else(|error| panic!("{name} {kinds:?}: {error}"));
            assert!((effect.share().unwrap() - 1.0).abs() < 1e-3, "{name} {kinds:?}: {effect:?}");
            assert!(effect.shift() > 1e-2, "{name} {kinds:?}: the adapters do nothing");
        }
    }
}

#[test]
fn adapters_that_cancel_leave_no_effect_to_measure() {
    let base = Base::open_with(&fixture("llama").to_string_lossy(), &OpenOptions::on_cpu()).unwrap();
    let adapter = base.adapter(&fixture("llama").join("adapters/plain"), true).unwrap();
    for dtype in [DType::F32, DType::Bf16] {
        for (second, expected) in [(-1.0, true), (-0.9, false)] {
            let parts = [(&adapter, 1.0), (&adapter, second)];
            let (_, _, report) = merged(&base, dtype, &parts, &parts);
            assert_eq!(cancel(&parts, &report), expected, "{dtype:?} {second}");
        }
    }
    // An adapter that has hardly moved from its start.
    let (effect, bound) = measured("llama", DType::F32, |_| {});
    assert!(!bound.hides(&effect));
    let small = [(&adapter, 1e-9)];
    let (effect, bound, _) = merged(&base, DType::F32, &small, &small);
    assert!(bound.hides(&effect), "{effect:?}");
}
