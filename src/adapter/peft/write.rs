//! Writes PEFT adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::super::layout;
use super::{CONFIG, PREFIX, WEIGHTS};
use crate::error::{Error, Result};
use crate::files;
use crate::model::lora::{Lora, Slot};
use crate::model::spec::DecoderSpec;

/// The origin of an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The base as the run named it; `base_model_name_or_path`.
    pub base: String,
    /// The commit of the base's repository on the Hub, if it came from there.
    pub revision: Option<String>,
    /// BLAKE3 fingerprint of the base's weights, if known.
    pub fingerprint: Option<String>,
    /// Further metadata: how it was trained.
    pub metadata: BTreeMap<String, String>,
}

/// Metadata key of the base's fingerprint.
pub const FINGERPRINT_KEY: &str = "dpo_lora.base_fingerprint";

/// Metadata key of the base's commit on the Hub.
pub const REVISION_KEY: &str = "dpo_lora.base_revision";

/// Writes an adapter directory that PEFT, vLLM and others load.
///
/// # Errors
/// If a file cannot be written; each file is then complete or unchanged.
pub fn write(directory: &Path, lora: &Lora, spec: &DecoderSpec, dropout: f64, origin: &Origin) -> Result<()> {
    write_named(directory, lora, spec, dropout, origin, &str::to_string)
}

/// As [`write()`], with modules named as `named` names them.
///
/// # Errors
/// As [`write()`].
pub fn write_named(
    directory: &Path,
    lora: &Lora,
    spec: &DecoderSpec,
    dropout: f64,
    origin: &Origin,
    named: &dyn Fn(&str) -> String,
) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    files::write_bytes(&directory.join(WEIGHTS), &weights(lora, origin, named)?)?;
    let mut text = serde_json::to_vec_pretty(&config_named(lora, spec, dropout, origin, named))
        .map_err(|e| Error::Adapter(format!("adapter_config.json: {e}")))?;
    text.push(b'\n');
    files::write_bytes(&directory.join(CONFIG), &text)
}

fn weights(lora: &Lora, origin: &Origin, named: &dyn Fn(&str) -> String) -> Result<Vec<u8>> {
    let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    if let Some(fingerprint) = &origin.fingerprint {
        metadata.insert(FINGERPRINT_KEY.into(), fingerprint.clone());
    }
    metadata.extend(origin.metadata.clone());
    metadata.extend(origin.revision.iter().map(|commit| (REVISION_KEY.to_string(), commit.clone())));
    let values = lora.values();
    let mut tensors = BTreeMap::new();
    for slot in lora.slots() {
        let mut put = |half: &str, shape: Vec<usize>, range: std::ops::Range<usize>| {
            let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(&values[range]));
            view.map(|view| tensors.insert(format!("{PREFIX}{}.{half}.weight", named(&slot.module)), view))
        };
        put("lora_A", vec![slot.rank, slot.inputs], slot.a())
            .and_then(|_| put("lora_B", vec![slot.outputs, slot.rank], slot.b()))
            .map_err(|e| Error::Adapter(format!("{}: {e}", slot.module)))?;
    }
    serialized(tensors, metadata)
}

/// The bytes of a safetensors file, the same in every run.
pub(in crate::adapter) fn serialized(
    tensors: BTreeMap<String, TensorView>,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let metadata = metadata.into_iter().collect();
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::Adapter(e.to_string()))?;
    sorted_header(bytes)
}

/// The header's keys in sorted order: the crate's metadata map has no order, and runs must repeat to the byte.
fn sorted_header(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let broken = || Error::Adapter("the safetensors header just written cannot be read".into());
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
    let header: BTreeMap<String, Value> =
        rest.get(..length).and_then(|h| serde_json::from_slice(h).ok()).ok_or_else(broken)?;
    let sorted: BTreeMap<String, Value> = header
        .into_iter()
        .map(|(name, value)| match (name.as_str(), value) {
            ("__metadata__", Value::Object(map)) => {
                let map: BTreeMap<String, Value> = map.into_iter().collect();
                (name, json!(map))
            }
            (_, value) => (name, value),
        })
        .collect();
    let mut text = serde_json::to_vec(&sorted).map_err(|_| broken())?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text, &rest[length..]].concat())
}

/// Whether `alpha / r`, or `alpha / √r`, is the scale of every module, so that PEFT's settings can express it. Other scales
/// are folded into B (see [`Lora::stacked`]) before writing.
pub fn expressible(lora: &Lora) -> bool {
    let all = |scale: fn(&Slot) -> f64| lora.slots().iter().all(|slot| close(slot.scale, scale(slot)));
    all(|slot| slot.alpha / slot.rank as f64) || all(|slot| slot.alpha / (slot.rank as f64).sqrt())
}

/// The `adapter_config.json` that [`write()`] writes.
pub fn config(lora: &Lora, spec: &DecoderSpec, dropout: f64, origin: &Origin) -> Value {
    config_named(lora, spec, dropout, origin, &str::to_string)
}

fn config_named(
    lora: &Lora,
    spec: &DecoderSpec,
    dropout: f64,
    origin: &Origin,
    named: &dyn Fn(&str) -> String,
) -> Value {
    let slots = lora.slots();
    let rank = most_common(slots.iter().map(|s| s.rank)).unwrap_or(8);
    let alpha = most_common(slots.iter().map(|s| s.alpha.to_bits())).map_or(8.0, f64::from_bits);
    let rslora = slots.iter().all(|s| close(s.scale, s.alpha / (s.rank as f64).sqrt()))
        && !slots.iter().all(|s| close(s.scale, s.alpha / s.rank as f64));
    let ranks: BTreeMap<String, usize> =
        slots.iter().filter(|s| s.rank != rank).map(|s| (named(&s.module), s.rank)).collect();
    let alphas: BTreeMap<String, Value> =
        slots.iter().filter(|s| s.alpha != alpha).map(|s| (named(&s.module), whole(s.alpha))).collect();
    let conv = spec.linears().any(|l| l.transposed && lora.find(&l.module).is_some());
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": origin.base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": whole(alpha),
        "lora_dropout": dropout,
        "target_modules": targets(slots, spec, named),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": rslora,
        "use_dora": false,
        "fan_in_fan_out": conv,
        "bias": "none",
        "modules_to_save": null,
        "init_lora_weights": true,
    })
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

/// An integer if possible: Ollama reads `lora_alpha` as a uint32.
fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn most_common<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = BTreeMap::<T, usize>::new();
    values.for_each(|v| *counts.entry(v).or_default() += 1);
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(v, _)| v)
}

/// The last parts of the adapted modules' names if those match just these modules, else their whole paths. In a model that also
/// sees or hears, the towers have modules with the same last parts: PEFT would adapt them too, and warn of missing matrices.
fn targets(slots: &[Slot], spec: &DecoderSpec, named: &dyn Fn(&str) -> String) -> Vec<String> {
    let leaf = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
    let leaves: BTreeSet<String> = slots.iter().map(|s| leaf(&s.module)).collect();
    let selected = spec.linears().filter(|l| leaves.contains(&leaf(&l.module))).count();
    let has_towers = slots.iter().any(|slot| layout::is_inside(&slot.module));
    if selected == slots.len() && !has_towers {
        return leaves.into_iter().collect();
    }
    slots.iter().map(|s| named(&s.module)).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::super::layout::{self, Naming};
    use super::super::read::read;
    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::model::spec::{DecoderSpec, LinearSpec, MlpSpec, QkvSpec};

    fn fixture() -> (std::path::PathBuf, DecoderSpec) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama");
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        (path, spec)
    }

    /// The decoder inside a model that also sees.
    fn inside(mut spec: DecoderSpec) -> DecoderSpec {
        let rename = |linear: &mut LinearSpec| {
            linear.module = linear.module.replacen("model.", "model.language_model.", 1);
        };
        for layer in &mut spec.layers {
            if let QkvSpec::Separate(each) = &mut layer.attention.qkv {
                each.iter_mut().for_each(rename);
            }
            rename(&mut layer.attention.output);
            if let MlpSpec::Gated { gate, up, down, .. } = &mut layer.mlp {
                [gate, up, down].into_iter().for_each(rename);
            }
        }
        spec
    }

    #[test]
    fn an_adapter_goes_between_a_text_model_and_one_that_also_sees() {
        let (path, text) = fixture();
        let wrapper = inside(text.clone());
        let from = path.join("adapters/patterns");
        let of_text = read(&from, &text, &Device::Cpu).unwrap().lora;
        let of_wrapper = read(&from, &wrapper, &Device::Cpu).unwrap().lora;
        assert_eq!(of_text.values(), of_wrapper.values());
        assert!(
            of_wrapper.slots().iter().all(|slot| slot.module.starts_with("model.language_model.layers."))
        );
        for naming in [Naming::Transformers, Naming::Vllm] {
            let place = tempfile::tempdir().unwrap();
            let named = |module: &str| layout::named(module, naming, "of no known class");
            write_named(place.path(), &of_wrapper, &wrapper, 0.0, &Origin::default(), &named).unwrap();
            let config: Value =
                serde_json::from_slice(&std::fs::read(place.path().join(CONFIG)).unwrap()).unwrap();
            let start = if naming == Naming::Vllm {
                "language_model.model.layers."
            } else {
                "model.language_model.layers."
            };
            let targets = config["target_modules"].as_array().unwrap();
            assert_eq!(targets.len(), of_wrapper.slots().len());
            let keys = config["alpha_pattern"].as_object().unwrap().keys();
            let names = keys.map(String::as_str).chain(targets.iter().map(|name| name.as_str().unwrap()));
            assert!(
                names.clone().count() > targets.len() && names.clone().all(|name| name.starts_with(start)),
                "{config}"
            );
            for spec in [&text, &wrapper] {
                let back = read(place.path(), spec, &Device::Cpu).unwrap();
                assert_eq!(back.lora.values(), of_text.values());
                let scales = |lora: &Lora| lora.slots().iter().map(|slot| slot.scale).collect::<Vec<_>>();
                assert_eq!(scales(&back.lora), scales(&of_text));
                assert!(back.notes.is_empty(), "{:?}", back.notes);
            }
        }
    }
}
