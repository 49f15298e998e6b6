use std::path::Path;

use super::super::peft;
use super::*;
use crate::model::families::{self, ConfigJson};
use crate::model::spec::LinearSpec;
use crate::weights::SafetensorsSource;

fn fixture(name: &str) -> (SafetensorsSource, DecoderSpec) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
    (SafetensorsSource::open(&directory).unwrap(), spec)
}

fn adapter(name: &str, case: &str) -> Adapters {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    peft::read(&directory.join("adapters").join(case), &fixture(name).1).unwrap().adapters
}

/// ΔW, formed.
fn delta(adapters: &Adapters, lora: &Lora) -> Vec<f64> {
    let (a, b) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()]);
    let at = |out: usize, input: usize, k: usize| {
        f64::from(b[out * lora.rank + k]) * f64::from(a[k * lora.inputs + input])
    };
    (0..lora.outputs * lora.inputs)
        .map(|i| lora.scale * (0..lora.rank).map(|k| at(i / lora.inputs, i % lora.inputs, k)).sum::<f64>())
        .collect()
}

fn frobenius_of(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn norms_are_those_of_the_formed_product() {
    for (name, case) in [("llama", "patterns"), ("llama", "rslora"), ("gpt2", "plain")] {
        let ((source, spec), adapters) = (fixture(name), adapter(name, case));
        let report = inspect(&adapters, Some((&source, &spec))).unwrap();
        assert_eq!(report.parameters, adapters.values().len());
        let (mut deltas, mut weights) = (Vec::new(), Vec::new());
        for (lora, found) in adapters.loras("a test").unwrap().iter().zip(&report.modules) {
            let exact = delta(&adapters, lora);
            assert!((found.delta_norm / frobenius_of(&exact) - 1.0).abs() < 1e-12);
            let singular = norm(found.singular_values.iter().copied());
            assert!((singular / found.delta_norm - 1.0).abs() < 1e-12, "{singular} for {}", found.delta_norm);
            assert!((1.0..=lora.rank as f64 + 1e-9).contains(&found.effective_rank));
            let weight = source.get(&format!("{}.weight", lora.module)).unwrap().elements().to_f32();
            let weight: Vec<f64> = weight.into_iter().map(f64::from).collect();
            let share = frobenius_of(&exact) / frobenius_of(&weight);
            assert!((found.share.unwrap() / share - 1.0).abs() < 1e-12);
            deltas.extend(exact);
            weights.extend(weight);
        }
        assert!((report.delta_norm / frobenius_of(&deltas) - 1.0).abs() < 1e-12);
        assert!((report.share.unwrap() / (report.delta_norm / frobenius_of(&weights)) - 1.0).abs() < 1e-12);
        assert!(inspect(&adapters, None).unwrap().share.is_none());
    }
}

/// A module of rank 3 over 4 → 5 features whose ΔW has the singular values 2·(3, 2, 1), or fewer.
fn known(values: [f32; 3]) -> Adapters {
    let lora = Lora::new(&LinearSpec::new("m".into(), 4, 5), 3, 6.0, 2.0);
    let mut adapters = Adapters::zeros(vec![lora]).unwrap();
    let (a, b) = (adapters.loras("a test").unwrap()[0].a(), adapters.loras("a test").unwrap()[0].b());
    adapters.update(|all| {
        // A's rows and B's columns are orthogonal; A = diag(values/2), B = 2 on its diagonal.
        for k in 0..3 {
            all[a.start + k * 4 + k] = values[k] / 2.0;
            all[b.start + k * 3 + k] = 2.0;
        }
    });
    adapters
}

#[test]
fn singular_values_and_effective_rank_are_those_known() {
    let of = |values| inspect(&known(values), None).unwrap().modules.remove(0);
    let found = of([1.0, 3.0, 2.0]);
    for (found, exact) in found.singular_values.iter().zip([6.0, 4.0, 2.0]) {
        assert!((found - exact).abs() < 1e-12);
    }
    // Shares 9/14, 4/14, 1/14.
    let entropy: f64 = [9.0f64, 4.0, 1.0].iter().map(|x| -(x / 14.0) * (x / 14.0).ln()).sum();
    assert!((found.effective_rank - entropy.exp()).abs() < 1e-12);
    assert!((of([1.0, 1.0, 1.0]).effective_rank - 3.0).abs() < 1e-12);
    assert!((of([0.0, 5.0, 0.0]).effective_rank - 1.0).abs() < 1e-12);
    assert_eq!((of([0.0; 3]).effective_rank, of([0.0; 3]).delta_norm), (0.0, 0.0));
}

#[test]
fn cosines_are_those_of_the_formed_products() {
    // Of other ranks, scales and modules.
    let (first, second) = (adapter("llama", "rslora"), adapter("llama", "patterns"));
    let found = compare(&first, &second).unwrap();
    assert_eq!(found.modules.len(), second.loras("a test").unwrap().len());
    assert_eq!(
        found.only_first.len(),
        first.loras("a test").unwrap().len() - second.loras("a test").unwrap().len()
    );
    assert!(found.only_second.is_empty());
    let (mut product, mut sizes) = (0.0, [0.0, 0.0]);
    for lora in first.loras("a test").unwrap() {
        let x = delta(&first, lora);
        sizes[0] += frobenius_of(&x).powi(2);
        if let Some(other) = second.find_lora(&lora.module) {
            let y = delta(&second, other);
            sizes[1] += frobenius_of(&y).powi(2);
            let dot = x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>();
            product += dot;
            let told = found.modules.iter().find(|(module, _)| *module == lora.module).unwrap().1.unwrap();
            assert!((told - dot / frobenius_of(&x) / frobenius_of(&y)).abs() < 1e-12);
        }
    }
    assert!((found.cosine.unwrap() - product / (sizes[0] * sizes[1]).sqrt()).abs() < 1e-12);
    assert!((compare(&first, &first).unwrap().cosine.unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(compare(&known([0.0; 3]), &known([1.0; 3])).unwrap().cosine, None);
}

#[test]
fn adapters_of_another_base_are_refused() {
    let (first, second) = (adapter("llama", "plain"), adapter("llama3", "plain"));
    let error = compare(&first, &second).unwrap_err().to_string();
    assert!(error.contains("layers.0.self_attn.q_proj is [48, 32] in one adapter and [64, 32]"), "{error}");
    let (source, spec) = fixture("llama3");
    let error = inspect(&first, Some((&source, &spec))).unwrap_err().to_string();
    assert!(error.contains("another base"), "{error}");
}
