use super::super::super::peft;

use super::*;
use crate::model::families::{self, ConfigJson};
use crate::model::gguf::GgufModel;
use crate::weights::gguf::GgufFile;
use crate::weights::{SafetensorsSource, WeightSource};

#[cfg(test)]
mod converter;

struct Model {
    directory: std::path::PathBuf,
    source: SafetensorsSource,
    spec: DecoderSpec,
}

impl Model {
    fn fixture(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let source = SafetensorsSource::open(&directory).unwrap();
        let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
        Self { directory, source, spec }
    }

    fn base(&self) -> Base<'_> {
        Base { directory: &self.directory, source: &self.source, spec: &self.spec }
    }

    fn adapter(&self) -> Adapters {
        peft::read(&self.directory.join("adapters/plain"), &self.spec).unwrap().adapters
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.source.get(name).unwrap().elements().to_f32()
    }

    fn merge(&self, kind: Option<FileType>, output: &Path) -> Result<MergeReport> {
        merge(
            &self.base(),
            &[(&self.adapter(), 0.5)],
            output,
            &GgufOptions { kind, ..GgufOptions::default() },
        )
    }
}

/// What safetensors hold after the same merge.
fn merged(model: &Model, place: &Path) -> SafetensorsSource {
    let output = place.join("safetensors");
    let options = super::super::MergeOptions { dtype: Some(DType::F32), ..Default::default() };
    super::super::merge(&model.base(), &[(&model.adapter(), 0.5)], &output, &options).unwrap();
    SafetensorsSource::open(&output).unwrap()
}

#[test]
fn tensors_are_those_of_the_merged_directory_in_llama_cpps_order() {
    for name in ["llama", "llama3", "qwen2", "qwen3"] {
        let (model, place) = (Model::fixture(name), tempfile::tempdir().unwrap());
        let path = place.path().join("m.gguf");
        let report = model.merge(Some(FileType::F32), &path).unwrap();
        assert_eq!(report.modules.len(), model.adapter().loras("a test").unwrap().len());
        let (file, directory) = (GgufFile::open(&path).unwrap(), merged(&model, place.path()));
        let want = |name: &str| directory.get(name).unwrap().elements().to_f32();
        let same = |name: &str, module: &str| assert_eq!(file.to_f32(name).unwrap(), want(module), "{name}");
        same("token_embd.weight", "model.embed_tokens.weight");
        same("output_norm.weight", "model.norm.weight");
        same("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight");
        same("blk.2.attn_v.weight", "model.layers.2.self_attn.v_proj.weight");
        same("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight");
        assert_eq!(file.find("output.weight").is_some(), model.spec.head.is_some(), "{name}");
        let heads = model.spec.layers[0].attention.heads;
        let (q, wanted) =
            (file.to_f32("blk.1.attn_q.weight").unwrap(), want("model.layers.1.self_attn.q_proj.weight"));
        let columns = model.spec.hidden;
        for row in 0..heads.n_head * heads.head_dim {
            let (first, at) = (row / heads.head_dim * heads.head_dim, row % heads.head_dim);
            let turned = first + at % 2 * (heads.head_dim / 2) + at / 2;
            let from = if name.starts_with("llama") { turned } else { row };
            assert_eq!(
                q[row * columns..(row + 1) * columns],
                wanted[from * columns..(from + 1) * columns],
                "{name} {row}"
            );
        }
        if name == "qwen2" {
            same("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias");
        }
        if name == "qwen3" {
            same("blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight");
        }
        let metadata = file.metadata();
        let text = |key: &str| metadata.text(key).unwrap().unwrap();
        assert_eq!(
            text("general.architecture"),
            name.trim_end_matches('3').replace("qwen", if name == "qwen3" { "qwen3" } else { "qwen" })
        );
        assert_eq!(metadata.texts("tokenizer.ggml.tokens").unwrap().unwrap().len(), model.spec.vocab_size);
        assert_eq!((text("tokenizer.ggml.model"), text("tokenizer.ggml.pre")), ("gpt2", "gpt-2"));
        assert_eq!(metadata.flag("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        assert_eq!(metadata.integer("tokenizer.ggml.eos_token_id").unwrap(), Some(1));
    }
}

#[test]
fn llama3s_scaling_is_a_tensor_of_divisors() {
    let (model, place) = (Model::fixture("llama3"), tempfile::tempdir().unwrap());
    let path = place.path().join("m.gguf");
    model.merge(None, &path).unwrap();
    let factors = GgufFile::open(&path).unwrap().to_f32("rope_freqs.weight").unwrap();
    let config = read_json(&model.directory.join("config.json")).unwrap();
    let settings = if config["rope_parameters"].is_object() {
        &config["rope_parameters"]
    } else {
        &config["rope_scaling"]
    };
    let factor = settings["factor"].as_f64().unwrap() as f32;
    // The fastest frequencies stay, the slowest are divided by the factor.
    assert!(
        (factors[0] - 1.0).abs() < 1e-5 && (factors.last().unwrap() / factor - 1.0).abs() < 1e-5,
        "{factors:?}"
    );
    assert_eq!(factors.len(), model.spec.layers[0].attention.heads.head_dim / 2);
}

#[test]
fn other_settings_of_llama3s_scaling_are_read_back() {
    let (fixture, place) = (Model::fixture("llama3"), tempfile::tempdir().unwrap());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture.directory.join(name), place.path().join(name)).unwrap();
    }
    let mut config = read_json(&fixture.directory.join("config.json")).unwrap();
    for (low, high, original) in [(2.0, 4.0, 300), (0.5, 9.0, 64)] {
        config["rope_parameters"]["low_freq_factor"] = low.into();
        config["rope_parameters"]["high_freq_factor"] = high.into();
        config["rope_parameters"]["original_max_position_embeddings"] = original.into();
        std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let spec = families::spec(&ConfigJson::open(place.path()).unwrap()).unwrap();
        let base = Base { directory: place.path(), source: &fixture.source, spec: &spec };
        let path = place.path().join(format!("{original}.gguf"));
        merge(&base, &[(&fixture.adapter(), 1.0)], &path, &GgufOptions::default()).unwrap();
        let read = GgufModel::open(&path).unwrap().spec;
        let pairs = read.rotations[0].frequencies.iter().zip(&spec.rotations[0].frequencies);
        for (found, wanted) in pairs {
            assert!((found / wanted - 1.0).abs() < 2e-5, "{low} {high} {original}: {found} for {wanted}");
        }
    }
}

#[test]
fn narrow_types_round_once_and_vectors_stay_wide() {
    for (kind, unit) in
        [(FileType::BF16, 2f32.powi(-8)), (FileType::F16, 2f32.powi(-11)), (FileType::Q8_0, 0.005)]
    {
        let (model, place) = (Model::fixture("llama"), tempfile::tempdir().unwrap());
        let path = place.path().join("m.gguf");
        let report = model.merge(Some(kind), &path).unwrap();
        assert!(report.rounding_max() > 0.0);
        let (file, exact) = (GgufFile::open(&path).unwrap(), merged(&model, place.path()));
        for (name, module) in [
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
            ("token_embd.weight", "model.embed_tokens.weight"),
        ] {
            assert_eq!(file.find(name).unwrap().kind.to_string(), kind.to_string().to_uppercase());
            let exact = exact.get(module).unwrap().elements().to_f32();
            let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (found, exact) in file.to_f32(name).unwrap().iter().zip(&exact) {
                assert!((found - exact).abs() <= unit * largest, "{kind} {name}: {found} for {exact}");
            }
        }
        assert_eq!(file.find("blk.0.attn_norm.weight").unwrap().kind.to_string(), "F32");
        // 56 columns cannot be cut into blocks of 32.
        let down = file.find("blk.0.ffn_down.weight").unwrap().kind.to_string();
        assert_eq!(down, if kind == FileType::Q8_0 { "F16".into() } else { kind.to_string().to_uppercase() });
    }
}

#[test]
fn gemmas_norms_have_their_one() {
    let mut model = Model::fixture("gemma3");
    // llama.cpp has no keys for the fixture's own scale and window pattern.
    let place = tempfile::tempdir().unwrap();
    let error = model.merge(None, &place.path().join("m.gguf")).unwrap_err().to_string();
    assert!(error.contains("query_pre_attn_scalar") && !error.contains("layer_types"), "{error}");
    for layer in &mut model.spec.layers {
        let heads = &mut layer.attention.heads;
        heads.scale = 1.0 / (heads.head_dim as f32).sqrt();
    }
    // One layer of two, the second, has full attention: llama.cpp gets this pattern.
    let path = place.path().join("pattern.gguf");
    model.merge(Some(FileType::F32), &path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.metadata().integer("gemma3.attention.sliding_window_pattern").unwrap(), Some(2));
    let global = model.spec.layers[1].attention.rotation;
    model.spec.layers[0].attention.heads.window = None;
    model.spec.layers[0].attention.rotation = global;
    let error = model.merge(None, &place.path().join("m.gguf")).unwrap_err().to_string();
    assert!(error.contains("layer_types"), "{error}");
    let local = model.spec.layers[2].attention.rotation;
    for layer in &mut model.spec.layers {
        layer.attention.heads.window = Some(6);
        layer.attention.rotation = local;
    }
    let path = place.path().join("m.gguf");
    model.merge(Some(FileType::F32), &path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    for (name, module) in [
        ("blk.1.post_ffw_norm.weight", "model.layers.1.post_feedforward_layernorm.weight"),
        ("blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight"),
        ("blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ] {
        let want: Vec<f32> = model.numbers(module).iter().map(|x| x + 1.0).collect();
        assert_eq!(file.to_f32(name).unwrap(), want, "{name}");
    }
    assert_eq!(file.metadata().integer("gemma3.attention.sliding_window").unwrap(), Some(6));
}

#[test]
fn what_llama_cpp_takes_for_granted_is_required() {
    let place = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut DecoderSpec), what: &str| {
        let mut model = Model::fixture("llama");
        change(&mut model.spec);
        let error = model.merge(None, &place.path().join("m.gguf")).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    };
    refused(
        |spec| {
            spec.layers.iter_mut().for_each(|layer| {
                if let crate::model::spec::MlpSpec::Gated { act, .. } = &mut layer.mlp {
                    *act = crate::ops::gated_act::Activation::Gelu;
                }
            })
        },
        "hidden_act",
    );
    refused(|spec| spec.logits.softcap = Some(30.0), "final_logit_softcapping");
    refused(|spec| spec.final_norm.eps = 1e-3, "eps");
    refused(
        |spec| {
            spec.rotations[0].frequencies.pop();
        },
        "partial_rotary_factor",
    );
    refused(|spec| spec.layers[1].attention.heads.window = Some(8), "sliding_window");
    refused(|spec| spec.rotations[0].frequencies[1] *= 1.01, "rotary settings");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn rows_too_short_for_super_blocks_have_llama_cpps_substitutes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny-reviews/model");
    let source = SafetensorsSource::open(&directory).unwrap();
    let spec = families::spec(&ConfigJson::open(&directory).unwrap()).unwrap();
    let model = Model { directory, source, spec };
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters/tiny-reviews-favourable");
    let adapters = peft::read(&adapter, &model.spec).unwrap().adapters;
    let place = tempfile::tempdir().unwrap();
    for (kind, id) in [(FileType::Q4KM, 15), (FileType::Q6K, 18)] {
        let path = place.path().join(format!("{kind}.gguf"));
        let options = GgufOptions { kind: Some(kind), ..GgufOptions::default() };
        let report = merge(&model.base(), &[(&adapters, 1.0)], &path, &options).unwrap();
        assert!(report.rounding_share() > 0.1);
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.metadata().integer("general.file_type").unwrap(), Some(id));
        let kind_of = |name: &str| file.find(name).unwrap().kind.to_string();
        let most = if kind == FileType::Q4KM { "Q5_0" } else { "Q8_0" };
        assert_eq!([kind_of("blk.0.ffn_up.weight"), kind_of("token_embd.weight")], [most, "Q8_0"]);
        let exact = model.source.get("model.embed_tokens.weight").unwrap().elements().to_f32();
        let found = file.to_f32("token_embd.weight").unwrap();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let lost: f64 = exact.iter().zip(&found).map(|(a, b)| square(a - b)).sum();
        let share = (lost / exact.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
        assert!(share > 1e-3 && share < 0.03, "{kind}: {share}");
        GgufModel::open(&path).unwrap();
    }
}

#[test]
fn other_families_are_refused_with_the_way_out() {
    let place = tempfile::tempdir().unwrap();
    for name in ["gpt2", "phi3", "gemma2"] {
        let error = Model::fixture(name).merge(None, &place.path().join("m.gguf")).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("convert_hf_to_gguf.py"), "{error}");
    }
    let path = place.path().join("there.gguf");
    std::fs::write(&path, "x").unwrap();
    assert!(Model::fixture("llama").merge(None, &path).unwrap_err().to_string().contains("--force"));
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}
