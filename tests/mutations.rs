//! Every family's fixture with one change to a key of `config.json` or a tensor. The log-probs must be those that
//! transformers 5.24 gives for the same change (`tests/parity/mutations.py`), or the program must refuse.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use common::{examples, fixture, pack};
use dpo_lora::data::PackedBatch;
use dpo_lora::error::{Error, Result};
use dpo_lora::model::decoder::Decoder;
use dpo_lora::model::families::{self, ConfigJson};
use dpo_lora::model::pass::Pass;
use dpo_lora::trainable::Policy;
use dpo_lora::weights::{DType, FileStamp, FrozenWeight, SafetensorsSource, Stored, WeightSource};
use serde_json::{Map, Value};

/// The tolerance of a summed log-prob in nats; two runs of the same model differ by 1e-4 here.
const TOLERANCE: f64 = 1e-3;

/// Keys that only the vision parts read. Their tensors are recognised by name and ignored, whatever the value is.
const LEFT_ALONE: &[&str] = &["vision_config.hidden_size", "spatial_merge_size"];

/// A checkpoint with one changed tensor.
struct Mutated {
    base: Arc<SafetensorsSource>,
    /// The tensor whose numbers each name has.
    tensors: BTreeMap<String, From>,
}

#[derive(Clone)]
enum From {
    File(String),
    Made(FrozenWeight),
}

impl Mutated {
    fn new(base: &Arc<SafetensorsSource>, mutation: &Map<String, Value>) -> Self {
        let mut tensors: BTreeMap<String, From> =
            base.names().into_iter().map(|name| (name.clone(), From::File(name))).collect();
        let text = |key: &str| mutation.get(key).and_then(Value::as_str).map(str::to_string);
        if let Some(name) = text("remove_tensor") {
            tensors.remove(&name).unwrap();
        }
        if let Some(name) = text("rename_tensor") {
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(text("to").unwrap(), tensor);
        }
        if let Some(name) = text("add_tensor") {
            let tensor = match text("copy_of") {
                Some(other) => From::File(other),
                None => From::Made(sines(&mutation["shape"])),
            };
            tensors.insert(name, tensor);
        }
        Self { base: base.clone(), tensors }
    }

    fn find(&self, name: &str) -> Result<&From> {
        self.tensors.get(name).ok_or_else(|| Error::Weights(format!("no tensor {name}")))
    }
}

/// Element i is 0.1·sin(i).
fn sines(shape: &Value) -> FrozenWeight {
    let shape: Vec<usize> = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    let count = shape.iter().product::<usize>();
    let numbers = (0..count).map(|i| (0.1 * (i as f64).sin()) as f32).collect();
    FrozenWeight::from_f32(numbers, &shape).unwrap()
}

impl WeightSource for Mutated {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match self.tensors.get(name)? {
            From::File(name) => self.base.shape(name),
            From::Made(weight) => Some(weight.shape().to_vec()),
        }
    }

    fn get(&self, name: &str) -> Result<FrozenWeight> {
        match self.find(name)? {
            From::File(name) => self.base.get(name),
            From::Made(weight) => Ok(weight.clone()),
        }
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        match self.find(name)? {
            From::File(name) => self.base.stored(name),
            From::Made(weight) => {
                Ok(Stored { dtype: "F32".into(), shape: weight.shape().to_vec(), bytes: weight.bytes() })
            }
        }
    }

    fn files(&self) -> Vec<FileStamp> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "a changed checkpoint".into()
    }
}

/// Changes keys of a configuration.
fn change(config: &mut Value, mutation: &Map<String, Value>) {
    let set = |config: &mut Value, path: &str, to: Option<&Value>| {
        let mut parts: Vec<&str> = path.split('.').collect();
        let last = parts.pop().unwrap();
        let mut at = config;
        for part in parts {
            at = at.get_mut(part).unwrap();
        }
        let object = at.as_object_mut().unwrap();
        match to {
            Some(to) => object.insert(last.into(), to.clone()),
            None => object.remove(last),
        };
    };
    if let Some(path) = mutation.get("remove").and_then(Value::as_str) {
        set(config, path, None);
    }
    if let Some(path) = mutation.get("set").and_then(Value::as_str) {
        set(config, path, Some(&mutation["to"]));
    }
    for (path, to) in mutation.get("set_all").and_then(Value::as_object).into_iter().flatten() {
        set(config, path, Some(to));
    }
}

fn logps(
    config: &Value,
    base: &Arc<SafetensorsSource>,
    mutation: &Map<String, Value>,
    batch: &PackedBatch,
) -> Result<Vec<f64>> {
    let spec = families::spec(&ConfigJson::parse(&config.to_string(), "config.json")?)?;
    let decoder = Decoder::load(spec, &Mutated::new(base, mutation), Some(DType::F32))?;
    decoder.logps(batch, &Policy::default(), Pass::Policy)
}

/// Returns what is wrong with the outcome, if anything.
fn verdict(got: &Result<Vec<f64>>, outcome: &Value, base: &Value) -> Option<String> {
    let Ok(got) = got else { return None };
    let wanted = match outcome {
        Value::String(same) if same == "same" => base,
        Value::Array(_) => outcome,
        other => return Some(format!("transformers: {other}, here {got:.3?}")),
    };
    let wanted: Vec<f64> = wanted.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let off = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // A NaN is not a small difference.
    (off.is_nan() || off > TOLERANCE).then(|| format!("transformers {wanted:.3?}, here {got:.3?}"))
}

fn fixtures() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(fixture("mutations")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_change_is_computed_as_transformers_does_or_refused() {
    let mut wrong = Vec::new();
    let (mut agreed, mut refused, mut needless) = (0, 0, 0);
    for path in fixtures() {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let directory = fixture("models").join(name);
        let cases: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let text = std::fs::read_to_string(directory.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let base = Arc::new(SafetensorsSource::open(&directory).unwrap());
        let batch = pack(&examples("pairs.jsonl", &fixture("tokenizer"))[..2]);
        let unchanged = logps(&config, &base, &Map::new(), &batch);
        assert!(unchanged.is_ok(), "{name}: {unchanged:?}");
        assert_eq!(verdict(&unchanged, &cases["base"], &cases["base"]), None, "{name}");
        for mutation in cases["mutations"].as_array().unwrap() {
            let mutation = mutation.as_object().unwrap();
            if mutation.get("set").and_then(Value::as_str).is_some_and(|path| LEFT_ALONE.contains(&path)) {
                continue;
            }
            let mut changed = config.clone();
            change(&mut changed, mutation);
            let computed = AssertUnwindSafe(|| logps(&changed, &base, mutation, &batch));
            let Ok(got) = std::panic::catch_unwind(computed) else {
                wrong.push(format!("{name}: {mutation:?}: panics"));
                continue;
            };
            match (verdict(&got, &mutation["outcome"], &cases["base"]), &got) {
                (Some(why), _) => wrong.push(format!("{name}: {mutation:?}: {why}")),
                (None, Ok(_)) => agreed += 1,
                (None, Err(error)) => {
                    refused += 1;
                    if mutation["outcome"].is_array() || mutation["outcome"] == "same" {
                        needless += 1;
                        if std::env::var_os("SHOW_REFUSED").is_some() {
                            eprintln!("{name}: {mutation:?}: {error}");
                        }
                    }
                }
            }
        }
    }
    println!("{agreed} agree, {refused} are refused ({needless} of those load in transformers)");
    assert!(agreed > 1000, "{agreed}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
