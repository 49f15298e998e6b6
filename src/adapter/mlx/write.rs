//! Writes adapters for mlx-lm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde_json::json;

use super::super::peft::{FINGERPRINT_KEY, Origin, serialized};
use super::{CONFIG, WEIGHTS};
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::model::lora::{Lora, Slot};
use crate::model::spec::DecoderSpec;

/// Families whose modules have the same names in mlx-lm and in transformers.
const FAMILIES: &[&str] = &[
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
];

/// The written adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MlxReport {
    /// Adapted modules.
    pub modules: usize,
    /// The rank of all of them.
    pub rank: usize,
    /// The scale of all of them.
    pub scale: f64,
    /// Number of layers, counted from the last, that mlx-lm adapts.
    pub num_layers: usize,
    /// Whether scales or ranks differed, so that B contains the scales, and A and B are padded with zeros to `rank`.
    pub folded: bool,
}

/// Writes an adapter directory that mlx-lm loads as its `--adapter-path`.
///
/// # Errors
/// If mlx-lm uses other names for the family's modules, the head is adapted, or a file cannot be written.
pub fn write(directory: &Path, lora: &Lora, spec: &DecoderSpec, origin: &Origin) -> Result<MlxReport> {
    check(lora, spec)?;
    let slots = lora.slots();
    let rank = slots.iter().map(|slot| slot.rank).max().unwrap_or(1);
    let scale = slots.first().map_or(1.0, |slot| slot.scale);
    let folded = slots.iter().any(|slot| slot.rank != rank || slot.scale != scale);
    let scale = if folded { 1.0 } else { scale };
    let first = slots.iter().filter_map(|slot| layer_of(slot, spec)).min().unwrap_or(0);
    let num_layers = spec.layers.len() - first;
    let keys: BTreeSet<String> = slots.iter().filter_map(|slot| within_layer(&slot.module)).collect();
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    files::write_bytes(&directory.join(WEIGHTS), &weights(lora, rank, folded, origin)?)?;
    let config = json!({
        "fine_tune_type": "lora",
        "model": origin.base,
        "num_layers": num_layers,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": 0.0, "keys": keys },
    });
    files::write_bytes(&directory.join(CONFIG), format!("{config:#}\n").as_bytes())?;
    Ok(MlxReport { modules: slots.len(), rank, scale, num_layers, folded })
}

fn check(lora: &Lora, spec: &DecoderSpec) -> Result<()> {
    let mut problems = Problems::default();
    problems.require(FAMILIES.contains(&spec.model_type.as_str()), || {
        format!(
            "an mlx-lm adapter for {} is not supported, since its modules have other names there (supported: {}); merge the \
             adapter and convert the whole model with mlx_lm.convert",
            spec.model_type,
            FAMILIES.join(", ")
        )
    });
    for slot in lora.slots().iter().filter(|slot| layer_of(slot, spec).is_none()) {
        problems.add(format!("{} is in no layer, and mlx-lm adapts layers only", slot.module));
    }
    problems.require(!lora.slots().is_empty(), || "there is nothing to export: no module is adapted".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))
}

/// The number of a module's layer.
fn layer_of(slot: &Slot, spec: &DecoderSpec) -> Option<usize> {
    spec.layers.iter().position(|layer| layer.linears().iter().any(|linear| linear.module == slot.module))
}

/// `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`.
fn within_layer(module: &str) -> Option<String> {
    let (_, rest) = module.split_once(".layers.")?;
    Some(rest.split_once('.')?.1.to_string())
}

fn weights(lora: &Lora, rank: usize, folded: bool, origin: &Origin) -> Result<Vec<u8>> {
    let mut metadata = BTreeMap::from([("format".to_string(), "mlx".to_string())]);
    if let Some(fingerprint) = &origin.fingerprint {
        metadata.insert(FINGERPRINT_KEY.into(), fingerprint.clone());
    }
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for slot in lora.slots() {
        let Slot { module, inputs, outputs, .. } = slot;
        let factor = if folded { slot.scale } else { 1.0 };
        let (a, b) = (&lora.values()[slot.a()], &lora.values()[slot.b()]);
        let (mut a_t, mut b_t) = (vec![0.0; inputs * rank], vec![0.0; rank * outputs]);
        for (at, x) in a.iter().enumerate() {
            a_t[at % inputs * rank + at / inputs] = *x;
        }
        for (at, x) in b.iter().enumerate() {
            b_t[at % slot.rank * outputs + at / slot.rank] = (f64::from(*x) * factor) as f32;
        }
        tensors.push((format!("{module}.lora_a"), vec![*inputs, rank], a_t));
        tensors.push((format!("{module}.lora_b"), vec![rank, *outputs], b_t));
    }
    let views = tensors.iter().map(|(name, shape, numbers)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(numbers));
        view.map(|view| (name.clone(), view)).map_err(|e| Error::Adapter(format!("{name}: {e}")))
    });
    serialized(views.collect::<Result<_>>()?, metadata)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::Device;

    use super::super::super::peft;
    use super::super::super::read::{Format, read};
    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::weights::{SafetensorsSource, WeightSource};

    fn model(name: &str) -> (PathBuf, DecoderSpec) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        (path, spec)
    }

    fn adapter(name: &str, case: &str) -> Lora {
        let (path, spec) = model(name);
        peft::read(&path.join("adapters").join(case), &spec, &Device::Cpu).unwrap().lora
    }

    #[test]
    fn what_is_written_is_transposed_and_read_back() {
        for case in ["plain", "rslora", "patterns", "subset"] {
            let (lora, (_, spec)) = (adapter("llama", case), model("llama"));
            let place = tempfile::tempdir().unwrap();
            let origin = Origin {
                base: "here".into(),
                revision: None,
                fingerprint: Some("f".into()),
                ..Origin::default()
            };
            let report = write(place.path(), &lora, &spec, &origin).unwrap();
            assert_eq!(report.folded, case == "patterns");
            let file = place.path().join(WEIGHTS);
            let source = SafetensorsSource::open_files(place.path(), &[file]).unwrap();
            let slot = lora.slots().iter().find(|slot| slot.module.contains("q_proj")).unwrap();
            let a = source.get(&format!("{}.lora_a", slot.module)).unwrap();
            assert_eq!(a.shape(), [32, report.rank]);
            // Row 5 is column 5 of A.
            for k in 0..slot.rank {
                assert_eq!(a.elements().get(5 * report.rank + k), lora.values()[slot.a()][k * 32 + 5]);
            }
            let back = read(place.path(), &spec, &Device::Cpu, false).unwrap();
            assert_eq!((back.format, back.base.as_deref()), (Format::Mlx, Some("here")));
            assert_eq!(back.fingerprint.as_deref(), Some("f"));
            assert_eq!(back.lora.slots().len(), lora.slots().len());
            for (found, slot) in back.lora.slots().iter().zip(lora.slots()) {
                let delta = |lora: &Lora, slot: &Slot, o: usize, i: usize| {
                    let (a, b) = (&lora.values()[slot.a()], &lora.values()[slot.b()]);
                    let sum: f64 = (0..slot.rank)
                        .map(|k| f64::from(b[o * slot.rank + k]) * f64::from(a[k * slot.inputs + i]))
                        .sum();
                    sum * slot.scale
                };
                for (o, i) in [(0, 0), (3, 17), (slot.outputs - 1, slot.inputs - 1)] {
                    let (here, there) = (delta(&back.lora, found, o, i), delta(&lora, slot, o, i));
                    assert!((here - there).abs() < 1e-6, "{case} {}: {here} for {there}", slot.module);
                }
            }
        }
    }

    #[test]
    fn families_with_other_names_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let error =
            write(place.path(), &adapter("gpt2", "plain"), &model("gpt2").1, &Origin::default()).unwrap_err();
        assert!(
            error.to_string().contains("gpt2") && error.to_string().contains("mlx_lm.convert"),
            "{error}"
        );
    }
}
