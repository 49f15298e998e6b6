//! Writes adapters for mlx-lm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde_json::json;

use super::super::peft::{Origin, serialized};
use super::{CONFIG, WEIGHTS};
use crate::error::{Error, Problems, Result};
use crate::files;
use crate::model::spec::DecoderSpec;
use crate::trainable::{Adapters, Lora};

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
/// If mlx-lm names the family's modules otherwise, the head is adapted, or a file cannot be written.
pub fn write(
    directory: &Path,
    adapters: &Adapters,
    spec: &DecoderSpec,
    origin: &Origin,
) -> Result<MlxReport> {
    let loras = &adapters.loras("an mlx-lm adapter")?;
    check(loras, spec)?;
    let rank = loras.iter().map(|lora| lora.rank).max().unwrap_or(1);
    let scale = loras.first().map_or(1.0, |lora| lora.scale);
    let folded = loras.iter().any(|lora| lora.rank != rank || lora.scale != scale);
    let scale = if folded { 1.0 } else { scale };
    let first = loras.iter().filter_map(|lora| layer_of(lora, spec)).min().unwrap_or(0);
    let num_layers = spec.layers.len() - first;
    let keys: BTreeSet<String> = loras.iter().filter_map(|lora| within_layer(&lora.module)).collect();
    std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
    files::write_bytes(
        &directory.join(WEIGHTS),
        &weights(adapters.values(), loras, (rank, folded), origin)?,
    )?;
    let config = json!({
        "fine_tune_type": "lora",
        "model": origin.base,
        "num_layers": num_layers,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": 0.0, "keys": keys },
    });
    files::write_bytes(&directory.join(CONFIG), format!("{config:#}\n").as_bytes())?;
    Ok(MlxReport { modules: loras.len(), rank, scale, num_layers, folded })
}

fn check(loras: &[&Lora], spec: &DecoderSpec) -> Result<()> {
    let mut problems = Problems::default();
    problems.require(FAMILIES.contains(&spec.model_type.as_str()), || {
        format!(
            "an mlx-lm adapter for {} is not supported, since its modules have other names there (supported: {}); merge the \
             adapter and convert the whole model with mlx_lm.convert",
            spec.model_type,
            FAMILIES.join(", ")
        )
    });
    for lora in loras.iter().filter(|lora| layer_of(lora, spec).is_none()) {
        problems.add(format!("{} is not in a layer, and mlx-lm adapts only layers", lora.module));
    }
    problems.require(!loras.is_empty(), || "there is nothing to export: no module is adapted".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))
}

/// The layer a module is in.
fn layer_of(lora: &Lora, spec: &DecoderSpec) -> Option<usize> {
    spec.layers.iter().position(|layer| layer.linears().iter().any(|linear| linear.module == lora.module))
}

/// `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`.
fn within_layer(module: &str) -> Option<String> {
    let (_, rest) = module.split_once(".layers.")?;
    Some(rest.split_once('.')?.1.to_string())
}

fn weights(
    values: &[f32],
    loras: &[&Lora],
    (rank, folded): (usize, bool),
    origin: &Origin,
) -> Result<Vec<u8>> {
    let mut metadata = BTreeMap::from([("format".to_string(), "mlx".to_string())]);
    metadata.extend(origin.entries());
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for lora in loras {
        let Lora { module, inputs, outputs, .. } = lora;
        let factor = if folded { lora.scale } else { 1.0 };
        let (a, b) = (&values[lora.a()], &values[lora.b()]);
        let (mut a_t, mut b_t) = (vec![0.0; inputs * rank], vec![0.0; rank * outputs]);
        for (at, x) in a.iter().enumerate() {
            a_t[at % inputs * rank + at / inputs] = *x;
        }
        for (at, x) in b.iter().enumerate() {
            b_t[at % lora.rank * outputs + at / lora.rank] = (f64::from(*x) * factor) as f32;
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

    use super::super::super::peft;
    use super::super::super::read::{Format, noted, read};
    use super::*;
    use crate::model::families::{self, ConfigJson};
    use crate::weights::{SafetensorsSource, WeightSource};

    fn model(name: &str) -> (PathBuf, DecoderSpec) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let spec = families::spec(&ConfigJson::open(&path).unwrap()).unwrap();
        (path, spec)
    }

    fn adapter(name: &str, case: &str) -> Adapters {
        let (path, spec) = model(name);
        peft::read(&path.join("adapters").join(case), &spec).unwrap().adapters
    }

    #[test]
    fn what_is_written_is_transposed_and_read_back() {
        for case in ["plain", "rslora", "patterns", "subset"] {
            let (adapters, (_, spec)) = (adapter("llama", case), model("llama"));
            let place = tempfile::tempdir().unwrap();
            let metadata = BTreeMap::from([("dpo_lora.objective".to_string(), "{}".to_string())]);
            let origin =
                Origin { base: "here".into(), fingerprint: Some("f".into()), metadata, ..Origin::default() };
            let report = write(place.path(), &adapters, &spec, &origin).unwrap();
            assert_eq!(report.folded, case == "patterns");
            let file = place.path().join(WEIGHTS);
            let source = SafetensorsSource::open_files(place.path(), &[file]).unwrap();
            let lora = adapters
                .iter()
                .filter_map(|a| a.as_lora())
                .find(|lora| lora.module.contains("q_proj"))
                .unwrap();
            let a = source.get(&format!("{}.lora_a", lora.module)).unwrap();
            assert_eq!(a.shape(), [32, report.rank]);
            // Row 5 is column 5 of A.
            for k in 0..lora.rank {
                assert_eq!(a.elements().get(5 * report.rank + k), adapters.values()[lora.a()][k * 32 + 5]);
            }
            let back = read(place.path(), &spec, false).unwrap();
            assert_eq!((back.format, back.base.as_deref()), (Format::Mlx, Some("here")));
            assert_eq!(back.fingerprint.as_deref(), Some("f"));
            let (_, noted) = noted(place.path()).unwrap();
            assert_eq!(noted.get("dpo_lora.objective").map(String::as_str), Some("{}"));
            assert_eq!(back.adapters.loras("a test").unwrap().len(), adapters.loras("a test").unwrap().len());
            for (found, lora) in
                back.adapters.loras("a test").unwrap().iter().zip(adapters.loras("a test").unwrap())
            {
                let delta = |adapters: &Adapters, lora: &Lora, o: usize, i: usize| {
                    let (a, b) = (&adapters.values()[lora.a()], &adapters.values()[lora.b()]);
                    let sum: f64 = (0..lora.rank)
                        .map(|k| f64::from(b[o * lora.rank + k]) * f64::from(a[k * lora.inputs + i]))
                        .sum();
                    sum * lora.scale
                };
                for (o, i) in [(0, 0), (3, 17), (lora.outputs - 1, lora.inputs - 1)] {
                    let (here, there) = (delta(&back.adapters, found, o, i), delta(&adapters, lora, o, i));
                    assert!((here - there).abs() < 1e-6, "{case} {}: {here} for {there}", lora.module);
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
