//! Writes PEFT adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::super::layout;
use super::{CONFIG, PREFIX, WEIGHTS, layers, prefix};
use crate::error::{Error, Result};
use crate::files;
use crate::model::spec::DecoderSpec;
use crate::trainable::{Adapters, PeftCommon};

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

impl Origin {
    /// Returns all of it but the base's name as the metadata of a file, which are the same in every format.
    pub(in crate::adapter) fn entries(&self) -> BTreeMap<String, String> {
        let mut entries = self.metadata.clone();
        let known = [(FINGERPRINT_KEY, &self.fingerprint), (REVISION_KEY, &self.revision)];
        entries.extend(known.into_iter().filter_map(|(key, value)| Some((key.to_string(), value.clone()?))));
        entries
    }
}

/// Metadata key of the base's fingerprint.
pub const FINGERPRINT_KEY: &str = "dpo_lora.base_fingerprint";

/// Metadata key of the base's commit on the Hub.
pub const REVISION_KEY: &str = "dpo_lora.base_revision";

/// Writes an adapter directory that PEFT, vLLM and others load.
///
/// # Errors
/// If a file cannot be written; each file is then complete or unchanged.
pub fn write(
    directory: &Path,
    adapters: &Adapters,
    spec: &DecoderSpec,
    dropout: f64,
    origin: &Origin,
) -> Result<()> {
    write_named(directory, adapters, spec, dropout, origin, &str::to_string)
}

/// As [`write()`], with modules named as `named` names them.
///
/// # Errors
/// As [`write()`].
pub fn write_named(
    directory: &Path,
    adapters: &Adapters,
    spec: &DecoderSpec,
    dropout: f64,
    origin: &Origin,
    named: &dyn Fn(&str) -> String,
) -> Result<()> {
    let shared = adapters.shared()?;
    let adapters = shared.as_ref().unwrap_or(adapters);
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    files::write_bytes(&directory.join(WEIGHTS), &weights(adapters, spec, origin, named)?)?;
    let mut text = serde_json::to_vec_pretty(&config_named(adapters, spec, dropout, origin, named)?)
        .map_err(|e| Error::Adapter(format!("adapter_config.json: {e}")))?;
    text.push(b'\n');
    files::write_bytes(&directory.join(CONFIG), &text)
}

fn weights(
    adapters: &Adapters,
    spec: &DecoderSpec,
    origin: &Origin,
    named: &dyn Fn(&str) -> String,
) -> Result<Vec<u8>> {
    let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    metadata.extend(origin.entries());
    if prefix::is_kind(adapters) {
        let (rows, shape) = prefix::rows(adapters, spec)?;
        return serialized(BTreeMap::from([prefix::view(&rows, &shape)?]), metadata);
    }
    let values = adapters.values();
    let mut tensors = BTreeMap::new();
    for (module, suffix, entry) in adapters.tensors() {
        let numbers = bytemuck::cast_slice(&values[entry.range.clone()]);
        let view = TensorView::new(Dtype::F32, entry.shape.clone(), numbers);
        let view = view.map_err(|e| Error::Adapter(format!("{}: {e}", entry.name)))?;
        tensors.insert(format!("{PREFIX}{}.{suffix}", named(module)), view);
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

/// The `adapter_config.json` that [`write()`] writes.
///
/// # Errors
/// If PEFT has no adapter of such modules.
pub fn config(adapters: &Adapters, spec: &DecoderSpec, dropout: f64, origin: &Origin) -> Result<Value> {
    config_named(adapters, spec, dropout, origin, &str::to_string)
}

fn config_named(
    adapters: &Adapters,
    spec: &DecoderSpec,
    dropout: f64,
    origin: &Origin,
    named: &dyn Fn(&str) -> String,
) -> Result<Value> {
    if prefix::is_kind(adapters) {
        return prefix::config(adapters, spec, &origin.base);
    }
    if layers::is_kind(adapters) {
        return layers::config(adapters, targets(adapters, spec, named), dropout, &origin.base);
    }
    let common = PeftCommon {
        base: &origin.base,
        dropout,
        target_modules: targets(adapters, spec, named),
        fan_in_fan_out: spec.linears().any(|l| l.transposed && adapters.find(&l.module).is_some()),
    };
    adapters.peft_config(common, named)
}

/// Returns the last parts of the adapted modules' names if those select exactly these modules, else their whole paths.
/// In a model with images or audio the towers have modules with the same last parts: PEFT would adapt them too, and
/// warn that it finds no matrices.
fn targets(adapters: &Adapters, spec: &DecoderSpec, named: &dyn Fn(&str) -> String) -> Vec<String> {
    let leaf = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
    let modules = || adapters.iter().filter(|adapter| adapter.is_of_linear()).map(|adapter| adapter.module());
    let leaves: BTreeSet<String> = modules().map(leaf).collect();
    let selected = spec.linears().filter(|l| leaves.contains(&leaf(&l.module))).count();
    let has_towers = modules().any(layout::is_inside);
    if selected == modules().count() && !has_towers {
        return leaves.into_iter().collect();
    }
    modules().map(named).collect()
}

#[cfg(test)]
mod tests {
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
        let of_text = read(&from, &text).unwrap().adapters;
        let of_wrapper = read(&from, &wrapper).unwrap().adapters;
        assert_eq!(of_text.values(), of_wrapper.values());
        assert!(
            of_wrapper
                .loras("a test")
                .unwrap()
                .iter()
                .all(|lora| lora.module.starts_with("model.language_model.layers."))
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
            assert_eq!(targets.len(), of_wrapper.loras("a test").unwrap().len());
            let keys = config["alpha_pattern"].as_object().unwrap().keys();
            let names = keys.map(String::as_str).chain(targets.iter().map(|name| name.as_str().unwrap()));
            assert!(
                names.clone().count() > targets.len() && names.clone().all(|name| name.starts_with(start)),
                "{config}"
            );
            for spec in [&text, &wrapper] {
                let back = read(place.path(), spec).unwrap();
                assert_eq!(back.adapters.values(), of_text.values());
                let scales = |adapters: &Adapters| {
                    adapters.loras("a test").unwrap().iter().map(|lora| lora.scale).collect::<Vec<_>>()
                };
                assert_eq!(scales(&back.adapters), scales(&of_text));
                assert!(back.notes.is_empty(), "{:?}", back.notes);
            }
        }
    }
}
