//! Files compared with those of llama.cpp's own converter, and with its log-probs.

use serde_json::Value as Json;

use super::*;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// A case of `tests/fixtures/cases`: its base, and llama.cpp's results for the file that its own converter makes of it.
struct Case {
    model: Model,
    place: std::path::PathBuf,
    expected: Json,
}

impl Case {
    fn open(name: &str, change: impl FnOnce(&mut Json)) -> Self {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases").join(name);
        let directory = place.join("base");
        let mut config = read_json(&directory.join("config.json")).unwrap();
        change(&mut config);
        let spec = families::spec(&ConfigJson::parse(&config.to_string(), "config.json").unwrap()).unwrap();
        let source = SafetensorsSource::open(&directory).unwrap();
        let expected = read_json(&place.join("expected.json")).unwrap();
        Self { model: Model { directory, source, spec }, place, expected }
    }

    fn adapter(&self) -> Adapters {
        peft::read(&self.place.join("a"), &self.model.spec).unwrap().adapters
    }

    fn merge(&self, weight: f64, output: &Path) -> Result<MergeReport> {
        let options = GgufOptions { kind: Some(FileType::F32), overwrite: true, ..GgufOptions::default() };
        merge(&self.model.base(), &[(&self.adapter(), weight)], output, &options)
    }

    /// The largest difference of a log-prob of `file` from the expected one of base and adapter.
    fn furthest(&self, file: &Path) -> f64 {
        let read = GgufModel::open(file).unwrap();
        let decoder = Decoder::load(read.spec, &read.source, None).unwrap();
        let numbers =
            |value: &Json| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let of = |key: &str| self.expected[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
        let mut apart = 0f64;
        for (prompt, wanted) in of("prompts").iter().zip(of("next_token_logps")) {
            let tokens: Vec<u32> = prompt.iter().map(|token| *token as u32).collect();
            let logits =
                decoder.step(&tokens, &mut decoder.new_cache(), &Policy::default(), Pass::Policy).unwrap();
            let lse = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            for (x, wanted) in logits.iter().zip(&wanted) {
                apart = apart.max((f64::from(*x) - lse - wanted).abs());
            }
        }
        apart
    }
}

/// Keys that describe a file for people, or that llama.cpp does not read for these architectures.
const FOR_PEOPLE: &[&str] = &["general.name", "general.size_label", "llama.rope.scaling.yarn_attn_factor"];

#[test]
fn files_are_those_of_llama_cpps_converter() {
    for (name, tie) in [("gguf-yarn-attention-factor", false), ("tied-head-stored-gguf", true)] {
        // A head that is stored is the model's, as transformers 5 reads it, whatever the configuration ties.
        let case = Case::open(name, |config| config["tie_word_embeddings"] = false.into());
        let config = read_json(&case.model.directory.join("config.json")).unwrap();
        assert_eq!(config["tie_word_embeddings"], tie, "{name}");
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("m.gguf");
        case.merge(0.0, &path).unwrap();
        let (ours, theirs) =
            (GgufFile::open(&path).unwrap(), GgufFile::open(&case.place.join("b.gguf")).unwrap());
        let names = |file: &GgufFile| {
            let mut names: Vec<String> = file.tensors().map(|tensor| tensor.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&ours), names(&theirs), "{name}");
        for tensor in names(&ours) {
            assert_eq!(ours.bytes(&tensor).unwrap(), theirs.bytes(&tensor).unwrap(), "{name} {tensor}");
        }
        let stated = |key: &str| theirs.metadata().get(key);
        for key in
            theirs.metadata().keys().filter(|key| !FOR_PEOPLE.contains(key) && !key.starts_with("tokenizer."))
        {
            assert_eq!(ours.metadata().get(key), stated(key), "{name} {key}");
        }
        case.merge(1.0, &path).unwrap();
        let apart = case.furthest(&path);
        assert!(apart < 1e-4, "{name}: {apart} nats from llama.cpp");
    }
}

#[test]
fn a_stored_head_is_not_dropped_for_a_configuration_that_ties() {
    let case = Case::open("tied-head-stored-gguf", |_| {});
    let place = tempfile::tempdir().unwrap();
    let mut model = case.model;
    model.spec.head = None;
    let adapters = peft::read(&case.place.join("a"), &model.spec).unwrap().adapters;
    let (gguf, directory) = (place.path().join("m.gguf"), place.path().join("m"));
    let error =
        merge(&model.base(), &[(&adapters, 1.0)], &gguf, &GgufOptions::default()).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight") && error.contains("tie_word_embeddings"), "{error}");
    let options = super::super::super::MergeOptions::default();
    let error = super::super::super::merge(&model.base(), &[(&adapters, 1.0)], &directory, &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tie_word_embeddings"), "{error}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    // If the loader treats the stored head as the model's own, the merged configuration unties it.
    model.spec.head = Some(crate::adapter::head::linear(&model.spec));
    super::super::super::merge(&model.base(), &[(&adapters, 1.0)], &directory, &options).unwrap();
    let config = read_json(&directory.join("config.json")).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
}

#[test]
fn yarns_factor_of_attention_is_told_beside_llama_cpps_own() {
    let set = |key: &'static str, value: Json| {
        move |config: &mut Json| {
            config["tie_word_embeddings"] = false.into();
            config["rope_parameters"][key] = value;
        }
    };
    // Yarn's own is 1 + 0.1 ln 4; llama.cpp multiplies it in.
    let own = 1.0 + 0.1 * 4f64.ln();
    for (factor, wanted) in [
        (Json::from(1.0), Some(1.0 / own)),
        (0.7.into(), Some(0.7 / own)),
        (Json::Null, None),
        (own.into(), None),
    ] {
        let place = tempfile::tempdir().unwrap();
        let case = Case::open("gguf-yarn-attention-factor", set("attention_factor", factor.clone()));
        let path = place.path().join("m.gguf");
        let written = write_with(&case, "attention_factor", factor.clone(), &path);
        written.unwrap();
        let file = GgufFile::open(&path).unwrap();
        let found = file.metadata().float("llama.rope.scaling.attn_factor").unwrap();
        match wanted {
            None => assert_eq!(found, None, "{factor}"),
            Some(wanted) => assert!((found.unwrap() - wanted).abs() < 1e-6, "{factor}: {found:?}"),
        }
        let read = GgufModel::open(&path).unwrap();
        let (ours, theirs) = (&read.spec.rotations[0], &case.model.spec.rotations[0]);
        assert!((ours.scale - theirs.scale).abs() < 1e-6, "{factor}: {} for {}", ours.scale, theirs.scale);
        assert_eq!(ours.frequencies, theirs.frequencies);
    }
    // A setting that llama.cpp ignores in the file is refused by its key, before anything is written.
    for (key, value) in
        [("beta_fast", Json::from(2.0)), ("beta_slow", 3.0.into()), ("truncate", false.into())]
    {
        let place = tempfile::tempdir().unwrap();
        let case = Case::open("gguf-yarn-attention-factor", set(key, value.clone()));
        let error = write_with(&case, key, value, &place.path().join("m.gguf")).unwrap_err().to_string();
        assert!(error.contains(&format!("rope_scaling.{key}")) && error.contains("safetensors"), "{error}");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

/// Merges a copy of the case's base whose configuration has this setting.
fn write_with(case: &Case, key: &str, value: Json, output: &Path) -> Result<MergeReport> {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(case.model.directory.join(file), copy.path().join(file)).unwrap();
    }
    let mut config = read_json(&copy.path().join("config.json")).unwrap();
    config["rope_parameters"][key] = value;
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let base = Base { directory: copy.path(), ..case.model.base() };
    let options = GgufOptions { kind: Some(FileType::F32), overwrite: true, ..GgufOptions::default() };
    merge(&base, &[(&case.adapter(), 1.0)], output, &options)
}
