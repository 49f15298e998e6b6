use std::path::PathBuf;

use super::super::peft;
use super::*;
use crate::model::decoder::Decoder;
use crate::model::families::{self, ConfigJson};
use crate::model::pass::Pass;
use crate::model::spec::DecoderSpec;
use crate::weights::WeightSource;
use crate::weights::{FrozenWeight, SafetensorsSource};

struct Model {
    directory: PathBuf,
    source: SafetensorsSource,
    spec: DecoderSpec,
}

impl Model {
    fn open(directory: PathBuf) -> Self {
        let source = SafetensorsSource::open(&directory).unwrap();
        let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
        Self { directory, source, spec }
    }

    fn fixture(name: &str) -> Self {
        Self::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name))
    }

    fn base(&self) -> Base<'_> {
        Base { directory: &self.directory, source: &self.source, spec: &self.spec }
    }

    fn adapter(&self, case: &str) -> Adapters {
        peft::read(&self.directory.join("adapters").join(case), &self.spec).unwrap().adapters
    }

    fn logits(&self, trained: Adapters) -> Vec<f32> {
        let decoder = Decoder::load(self.spec.clone(), &self.source, Some(DType::F32)).unwrap();
        let policy = crate::trainable::Policy::of(trained);
        let mut cache = decoder.new_cache();
        decoder.step(&[5, 300, 17, 90, 41, 7, 250], &mut cache, &policy, Pass::Policy).unwrap()
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn merged(
    model: &Model,
    adapters: &[(&Adapters, f64)],
    options: &MergeOptions,
) -> (tempfile::TempDir, Model, MergeReport) {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("merged");
    let report = merge(&model.base(), adapters, &output, options).unwrap();
    (place, Model::open(output), report)
}

#[test]
fn a_merged_model_computes_what_base_and_adapter_do() {
    for name in ["llama", "llama3", "gpt2", "phi3", "gpt_neox", "gemma3"] {
        let model = Model::fixture(name);
        let adapters = model.adapter("plain");
        let (_place, merged, report) = merged(&model, &[(&adapters, 1.0)], &MergeOptions::default());
        assert_eq!(
            (report.modules.len(), report.rounding_max()),
            (adapters.loras("a test").unwrap().len(), 0.0),
            "{name}"
        );
        let (alone, here) = (model.logits(Adapters::default()), merged.logits(Adapters::default()));
        let there = model.logits(adapters);
        assert!(largest_difference(&here, &there) < 2e-5, "{name}: {}", largest_difference(&here, &there));
        assert!(largest_difference(&alone, &there) > 0.1, "{name}: the adapter must matter");
        assert_eq!(merged.source.names(), model.source.names(), "{name}");
    }
}

/// `W + Σ weight·scale·B·A` in f64, for a plain (not transposed) module.
fn by_hand(model: &Model, adapters: &[(&Adapters, f64)], module: &str) -> Vec<f64> {
    let weight = model.source.get(&format!("{module}.weight")).unwrap();
    let mut sum: Vec<f64> = weight.elements().to_f32().into_iter().map(f64::from).collect();
    for (adapters, factor) in adapters {
        let Some(lora) = adapters.find_lora(module) else { continue };
        let (a, b) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()]);
        for (at, sum) in sum.iter_mut().enumerate() {
            let (out, input) = (at / lora.inputs, at % lora.inputs);
            let product = |k| f64::from(b[out * lora.rank + k]) * f64::from(a[k * lora.inputs + input]);
            *sum += factor * lora.scale * (0..lora.rank).map(product).sum::<f64>();
        }
    }
    sum
}

#[test]
fn several_adapters_add_up_and_rounding_is_once_and_told() {
    let model = Model::fixture("llama");
    let (plain, patterns) = (model.adapter("plain"), model.adapter("patterns"));
    let adapters = [(&plain, 0.75), (&patterns, -1.5)];
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let options = MergeOptions { dtype: Some(dtype), ..MergeOptions::default() };
        let (_place, merged, report) = merged(&model, &adapters, &options);
        for module in ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"] {
            let exact = by_hand(&model, &adapters, module);
            let found = merged.source.get(&format!("{module}.weight")).unwrap();
            assert_eq!(found.dtype(), Some(dtype));
            // The type's unit round-off, and f32's own rounding of the sums.
            let unit = match dtype {
                DType::F32 => 2f64.powi(-24),
                DType::Bf16 => 2f64.powi(-8),
                DType::F16 => 2f64.powi(-11),
            };
            for (found, exact) in found.elements().to_f32().iter().zip(&exact) {
                let error = (f64::from(*found) - exact).abs();
                assert!(error <= exact.abs() * unit + 1e-6, "{dtype:?} {module}: {found} for {exact}");
            }
            let told = report.modules.iter().find(|m| m.module == module).unwrap();
            let base = model.source.get(&format!("{module}.weight")).unwrap().elements().to_f32();
            let delta = exact.iter().zip(&base).map(|(e, b)| (e - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
            assert!((told.delta_norm / delta - 1.0).abs() < 1e-5, "{} for {delta}", told.delta_norm);
            let largest = exact.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            assert!(told.rounding_max <= largest * unit * 1.001);
            assert_eq!(told.rounding_max > 0.0, dtype != DType::F32);
        }
        assert!(report.rounding_share() < 0.01);
        let embedding = merged.source.get("model.embed_tokens.weight").unwrap();
        assert_eq!(embedding.dtype(), Some(dtype), "what is not adapted is stored alike");
        let config = std::fs::read_to_string(merged.directory.join("config.json")).unwrap();
        let name = ["float32", "bfloat16", "float16"][dtype as usize];
        assert!(config.contains(&format!("\"torch_dtype\": \"{name}\"")), "{config}");
    }
}

#[test]
fn rows_are_the_same_in_blocks_and_at_once() {
    // More numbers than a block: 40 rows of 40_000 columns, and their transpose.
    let (inputs, outputs, rank) = (40_000, 40, 3);
    for transposed in [false, true] {
        let linear = crate::model::spec::LinearSpec {
            transposed,
            ..crate::model::spec::LinearSpec::new("m".into(), inputs, outputs)
        };
        let lora = crate::trainable::Lora::new(&linear, rank, 6.0, 2.0);
        let mut adapters = Adapters::zeros(vec![lora]).unwrap();
        adapters
            .update(|values| values.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 101) as f32 / 64.0));
        let shape = if transposed { [inputs, outputs] } else { [outputs, inputs] };
        let weight = FrozenWeight::from_f32(vec![0.5; inputs * outputs], &shape).unwrap();
        let addends = [tensor::Addend(
            adapters.iter().next().unwrap().delta(adapters.values(), 0.5, || unreachable!()).unwrap(),
        )];
        let mut bytes = Vec::new();
        let (made, written) = stream::through(&mut bytes, |stream| {
            tensor::write(stream, &weight, Some((&linear, &addends)), &DType::F32.into())
        });
        written.and(made).unwrap();
        let found: &[f32] = bytemuck::cast_slice(&bytes);
        assert_eq!(found.len(), inputs * outputs);
        let (a, b) = (
            &adapters.values()[adapters.loras("a test").unwrap()[0].a()],
            &adapters.values()[adapters.loras("a test").unwrap()[0].b()],
        );
        for at in (0..found.len()).step_by(997) {
            let (row, column) = (at / shape[1], at % shape[1]);
            let (out, input) = if transposed { (column, row) } else { (row, column) };
            let product: f32 = (0..rank).map(|k| b[out * rank + k] * a[k * inputs + input]).sum();
            assert!((found[at] - (0.5 + product)).abs() < 1e-5, "{transposed} {at}");
        }
    }
}

#[test]
fn shards_and_their_index_are_read_back() {
    let model = Model::fixture("llama-sharded");
    let adapters = Model::fixture("llama").adapter("plain");
    let options = MergeOptions { shard_bytes: 30_000, ..MergeOptions::default() };
    let (_place, merged, report) = merged(&model, &[(&adapters, 1.0)], &options);
    assert!(report.files.len() > 2 && !merged.directory.join("model.safetensors").exists());
    assert_eq!(merged.source.names(), model.source.names());
    assert!(report.rounding_max() > 0.0);
    // Tensors that are not adapted keep their bytes, adapted ones their type.
    let names = ["model.norm.weight", "model.embed_tokens.weight"];
    for name in names {
        assert_eq!(merged.source.stored(name).unwrap(), model.source.stored(name).unwrap());
    }
    let adapted = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(merged.source.stored(adapted).unwrap().dtype, "BF16");
    assert_ne!(merged.source.stored(adapted).unwrap(), model.source.stored(adapted).unwrap());
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |directory: &Path| std::fs::read(directory.join(file)).unwrap();
        assert_eq!(read(&merged.directory), read(&model.directory));
    }
}

#[test]
fn a_checkpoint_without_the_prefix_is_merged_under_its_own_names() {
    let model = Model::fixture("gpt2");
    let adapters = model.adapter("plain");
    let place = tempfile::tempdir().unwrap();
    let short = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_string();
    let tensors: Vec<_> =
        model.source.names().iter().map(|n| (short(n), model.source.stored(n).unwrap())).collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(n, s)| (n.as_str(), "F32", s.shape.as_slice(), s.bytes)).collect();
    super::super::testing::write_checkpoint(&place.path().join("model.safetensors"), &tensors);
    std::fs::copy(model.directory.join("config.json"), place.path().join("config.json")).unwrap();
    let bare = Model::open(place.path().to_path_buf());
    let (_place, merged, _) = merged(&bare, &[(&adapters, 1.0)], &MergeOptions::default());
    assert!(merged.source.shape("h.0.attn.c_attn.weight").is_some());
    assert!(largest_difference(&merged.logits(Adapters::default()), &model.logits(adapters)) < 2e-5);
}

#[test]
fn misfits_are_named_together_and_nothing_is_written() {
    let model = Model::fixture("llama");
    let adapters = Model::fixture("gpt2").adapter("plain");
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("merged");
    let options = MergeOptions::default();
    let error = merge(&model.base(), &[(&adapters, f64::NAN)], &output, &options).unwrap_err().to_string();
    assert!(error.contains("transformer.h.0.attn.c_attn") && error.contains("h.2.mlp.c_proj"), "{error}");
    assert!(error.contains("weight is NaN"), "{error}");

    let adapters = model.adapter("plain");
    let huge = merge(
        &model.base(),
        &[(&adapters, 1e30)],
        &output,
        &MergeOptions { dtype: Some(DType::F16), ..options },
    );
    assert!(huge.unwrap_err().to_string().contains("f16 cannot"));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_file_and_a_link_that_leads_nowhere_are_no_place_for_a_directory() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = check_directory(&file).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("file is a file"), "{error}");
    check_directory(place.path()).unwrap();
    check_directory(&place.path().join("new")).unwrap();
    #[cfg(unix)]
    {
        let link = place.path().join("link");
        std::os::unix::fs::symlink("gone", &link).unwrap();
        let error = check_directory(&link).unwrap_err().to_string();
        assert!(error.contains("link is a link to gone, which is not there"), "{error}");
        std::fs::create_dir(place.path().join("gone")).unwrap();
        check_directory(&link).unwrap();
    }
}

#[test]
fn only_models_are_overwritten_and_only_when_asked() {
    let model = Model::fixture("llama");
    let adapters = model.adapter("plain");
    let place = tempfile::tempdir().unwrap();
    let refused = |output: &Path, overwrite| {
        let options = MergeOptions { overwrite, ..MergeOptions::default() };
        merge(&model.base(), &[(&adapters, 1.0)], output, &options).unwrap_err().to_string()
    };
    let output = place.path().join("merged");
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("thesis.txt"), "x").unwrap();
    assert!(refused(&output, false).contains("not empty"));
    assert!(refused(&output, true).contains("not a model to overwrite"));
    assert!(refused(&model.directory, true).contains("is the base"));
    assert!(refused(model.directory.parent().unwrap(), true).contains("is the base or contains it"));
    std::fs::write(output.join("config.json"), "{}").unwrap();
    assert!(refused(&output, true).contains("no part of the model that is written: thesis.txt"));
    std::fs::remove_file(output.join("thesis.txt")).unwrap();
    let options = MergeOptions { overwrite: true, ..MergeOptions::default() };
    for _ in 0..2 {
        merge(&model.base(), &[(&adapters, 1.0)], &output, &options).unwrap();
    }
    assert!(output.join("model.safetensors").exists());
    assert!(refused(&output, false).contains("not empty"));
}
