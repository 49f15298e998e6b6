use std::path::{Path, PathBuf};

use super::super::peft;
use super::*;
use crate::model::families::{self, ConfigJson};
use crate::model::spec::DecoderSpec;
use crate::weights::{SafetensorsSource, WeightSource};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn spec() -> DecoderSpec {
    families::spec(&ConfigJson::open(&fixtures().join("models/llama")).unwrap()).unwrap()
}

/// `tests/parity/compose.py` has PEFT write them: `a` and `b` of rank 4, `c` of rank 3 with rsLoRA.
fn adapter(name: &str) -> Adapters {
    peft::read(&fixtures().join("compose").join(name), &spec()).unwrap().adapters
}

fn options(combination: Combination) -> ComposeOptions {
    ComposeOptions { combination, density: 1.0, majority_sign: MajoritySign::Total, seed: 1, rank: None }
}

/// The mask that `compose.py` puts in the place of torch's.
fn injected(_: usize, _: &str, _: &'static str, density: f64) -> Box<dyn Fn(usize) -> bool> {
    Box::new(move |index| ((index * 7 + 3) % 10) as f64 / 10.0 < density)
}

fn delta(a: &[f32], b: &[f32], rank: usize, inputs: usize) -> Vec<f64> {
    let outputs = b.len() / rank;
    let at = |o: usize, i: usize| {
        (0..rank).map(|k| f64::from(b[o * rank + k]) * f64::from(a[k * inputs + i])).sum()
    };
    (0..outputs * inputs).map(|at_| at(at_ / inputs, at_ % inputs)).collect()
}

#[test]
fn every_combination_is_pefts() {
    let text = std::fs::read_to_string(fixtures().join("compose/cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let adapters = ["a", "b", "c"].map(|name| (name, adapter(name)));
    let mut seen = Vec::new();
    for (name, case) in cases.as_object().unwrap() {
        let combination = match case["combination_type"].as_str().unwrap() {
            "linear" => Combination::Linear,
            "cat" => Combination::Cat,
            "svd" => Combination::Svd,
            "ties" => Combination::Ties,
            "dare_linear" => Combination::DareLinear,
            "dare_ties" => Combination::DareTies,
            "magnitude_prune" => Combination::MagnitudePrune,
            other => panic!("{other}"),
        };
        seen.push(combination.to_string());
        let frequency = case["majority_sign_method"] == "frequency";
        let options = ComposeOptions {
            density: case["density"].as_f64().unwrap_or(1.0),
            majority_sign: if frequency { MajoritySign::Frequency } else { MajoritySign::Total },
            rank: case["svd_rank"].as_u64().map(|rank| rank as usize),
            ..options(combination)
        };
        let names = case["adapters"].as_array().unwrap().iter().map(|n| n.as_str().unwrap());
        let weights = case["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap());
        let find = |name: &str| &adapters.iter().find(|(known, _)| *known == name).unwrap().1;
        let parts: Vec<(&Adapters, f64)> = names.map(find).zip(weights).collect();
        let adapters = compose_with(&parts, &options, &injected).unwrap().adapters;
        let file = fixtures().join(format!("compose/{name}.safetensors"));
        let peft = SafetensorsSource::open_files(&fixtures(), std::slice::from_ref(&file)).unwrap();
        assert_eq!(peft.names().len(), 2 * adapters.loras("a test").unwrap().len(), "{name}");
        for lora in adapters.loras("a test").unwrap() {
            let tensor = |half: &str| {
                let tensor = peft.get(&format!("{}.{half}", lora.module)).unwrap();
                (tensor.shape().to_vec(), tensor.elements().to_f32())
            };
            let ((shape, want_a), (_, want_b)) = (tensor("lora_A"), tensor("lora_B"));
            let (a, b) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()]);
            assert_eq!((lora.scale, lora.alpha), (1.0, lora.rank as f64));
            let near = |got: &[f64], want: &[f64], what: &str| {
                assert_eq!(got.len(), want.len(), "{name} {} {what}", lora.module);
                let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
                let off = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
                assert!(largest > 1e-3, "{name} {} {what} is nothing", lora.module);
                assert!(off <= 1e-5, "{name} {} {what}: {off:e}", lora.module);
            };
            let product = |a: &[f32], b: &[f32], rank| delta(a, b, rank, lora.inputs);
            near(&product(a, b, lora.rank), &product(&want_a, &want_b, shape[0]), "ΔW");
            // Singular vectors may have the other sign, and PEFT keeps those of singular values 0.
            if combination != Combination::Svd {
                // Where not all adapt a module, PEFT fills `cat` up with zeros.
                let rows = lora.rank * lora.inputs;
                let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                let columns = want_b.chunks_exact(shape[0]).flat_map(|row| &row[..lora.rank]);
                near(&wide(a), &wide(&want_a[..rows]), "A");
                near(&wide(b), &wide(&columns.copied().collect::<Vec<_>>()), "B");
                assert!(want_a[rows..].iter().all(|x| *x == 0.0), "{name} {}", lora.module);
            }
        }
    }
    for combination in ["linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"] {
        assert!(seen.iter().any(|s| s == combination), "no case of {combination}");
    }
}

fn product(adapters: &Adapters, module: &str) -> Vec<f64> {
    let lora = adapters.find_lora(module).unwrap();
    let mut product =
        delta(&adapters.values()[lora.a()], &adapters.values()[lora.b()], lora.rank, lora.inputs);
    product.iter_mut().for_each(|x| *x *= lora.scale);
    product
}

fn off(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn cat_is_the_exact_sum_and_svd_at_its_rank_too() {
    let (a, c) = (adapter("a"), adapter("c"));
    let module = "model.layers.1.self_attn.q_proj";
    let (x, y) = (product(&a, module), product(&c, module));
    // Also a difference.
    let exact: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 0.5 * x - 1.5 * y).collect();
    let parts = [(&a, 0.5), (&c, -1.5)];
    let cat = compose(&parts, &options(Combination::Cat)).unwrap();
    assert!(off(&product(&cat.adapters, module), &exact) < 1e-6 && cat.energy().is_none());
    let whole = ComposeOptions { rank: Some(7), ..options(Combination::Svd) };
    let svd = compose(&parts, &whole).unwrap();
    assert!(off(&product(&svd.adapters, module), &exact) < 1e-6);
    assert!((svd.energy().unwrap().0 - 1.0).abs() < 1e-12);
    let cut = compose(&parts, &ComposeOptions { rank: Some(2), ..whole }).unwrap();
    assert!(cut.adapters.loras("a test").unwrap().iter().all(|lora| lora.rank == 2));
    let (all, least) = cut.energy().unwrap();
    let lost: f64 = product(&cut.adapters, module).iter().zip(&exact).map(|(x, y)| (x - y).powi(2)).sum();
    let kept = cut.kept.as_ref().unwrap().iter().find(|kept| kept.module == module).unwrap();
    assert!(((kept.total - kept.kept) / lost - 1.0).abs() < 1e-4, "{kept:?} {lost}");
    assert!(least < all && all < 1.0 && least > 0.2, "{all} {least}");
}

#[test]
fn an_adapter_minus_itself_is_nothing_and_a_half_is_a_half() {
    let a = adapter("a");
    let module = "model.layers.0.self_attn.v_proj";
    let none = compose(&[(&a, 1.0), (&a, -1.0)], &options(Combination::Cat)).unwrap();
    assert!(product(&none.adapters, module).iter().all(|x| x.abs() < 1e-7));
    for weight in [0.5, -2.0] {
        let exact: Vec<f64> = product(&a, module).iter().map(|x| weight * x).collect();
        for combination in [Combination::Linear, Combination::Cat, Combination::Svd] {
            let found = compose(&[(&a, weight)], &options(combination)).unwrap();
            assert!(off(&product(&found.adapters, module), &exact) < 1e-6, "{combination}");
        }
    }
}

#[test]
fn dare_keeps_about_its_share_and_repeats_by_seed() {
    let a = adapter("a");
    let drop = |seed| {
        let options = ComposeOptions { density: 0.3, seed, ..options(Combination::DareLinear) };
        compose(&[(&a, 1.0)], &options).unwrap().adapters
    };
    let adapters = drop(1);
    let kept =
        adapters.values().iter().filter(|x| **x != 0.0).count() as f64 / adapters.values().len() as f64;
    // Standard error of a share of some 4,000: 0.007.
    assert!((kept - 0.3).abs() < 0.04, "{kept}");
    assert_eq!(adapters.values(), drop(1).values());
    assert_ne!(adapters.values(), drop(2).values());
}

#[test]
fn what_cannot_be_combined_is_named_together() {
    let (a, c) = (adapter("a"), adapter("c"));
    let refused = |parts: &[(&Adapters, f64)], options: &ComposeOptions| {
        compose(parts, options).unwrap_err().to_string()
    };
    let error = refused(&[(&a, 1.0), (&c, f64::INFINITY)], &options(Combination::Ties));
    for part in ["layers.0.self_attn.q_proj has the ranks [4, 3]", "layers.2", "ties", "cat or svd", "inf"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    for density in [0.0, 1.5, -1.0, f64::NAN] {
        let error = refused(&[(&a, 1.0)], &ComposeOptions { density, ..options(Combination::Ties) });
        assert!(error.contains("density"), "{error}");
    }
    assert!(refused(&[], &options(Combination::Cat)).contains("nothing to combine"));
    assert!(refused(&[(&a, 1e300)], &options(Combination::Cat)).contains("overflows"));
    let other = families::spec(&ConfigJson::open(&fixtures().join("models/llama3")).unwrap()).unwrap();
    let other = peft::read(&fixtures().join("models/llama3/adapters/plain"), &other).unwrap().adapters;
    assert!(refused(&[(&a, 1.0), (&other, 1.0)], &options(Combination::Cat)).contains("different bases"));
}
