//! Reads mlx-lm's adapters.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::names::{MOST_TOLD, hint, shown};
use super::super::read::{Adapter, Format};
use super::super::twin::{SKETCH_KEY, Sketch};
use super::super::{layout, peft};
use super::{CONFIG, WEIGHTS};
use crate::error::{Error, Problems, Result};
use crate::model::spec::{DecoderSpec, LinearSpec};
use crate::trainable::{Adapters, Lora};
use crate::weights::{SafetensorsSource, WeightSource};

/// Reads the adapter in `directory` for a decoder.
///
/// # Errors
/// If a file is missing or damaged, it is not a LoRA adapter, or a tensor does not fit; all misfits are named at once.
pub fn read(directory: &Path, spec: &DecoderSpec) -> Result<Adapter> {
    let config = Config::open(&directory.join(CONFIG))?;
    let path = directory.join(WEIGHTS);
    let source = SafetensorsSource::open_files(directory, std::slice::from_ref(&path))?;
    let within = |e: Error| Error::Adapter(format!("{}: {e}", path.display()));
    let pairs = pairs(&source, spec).map_err(within)?;
    let loras = pairs.values().map(|Pair { linear, rank, .. }| {
        Lora::new(*linear, *rank, config.scale * *rank as f64, config.scale)
    });
    let mut adapters = Adapters::zeros(loras)?;
    let mut values = adapters.values().to_vec();
    for lora in adapters.loras("an mlx-lm adapter")? {
        let own = &pairs[&lora.module].own;
        let half = |half: &str| source.get(&format!("{own}.{half}")).map(|w| w.elements().to_f32());
        transpose(&half("lora_a")?, lora.rank, &mut values[lora.a()]);
        transpose(&half("lora_b")?, lora.outputs, &mut values[lora.b()]);
    }
    adapters.update(|all| all.copy_from_slice(&values));
    if let Some((module, _)) = adapters.not_finite() {
        return Err(within(Error::Adapter(format!(
            "{module} holds numbers that are not finite; it is damaged"
        ))));
    }
    let metadata = peft::metadata(&path)?;
    let fingerprint = metadata.get(peft::FINGERPRINT_KEY).cloned();
    let sketch = metadata.get(SKETCH_KEY).and_then(|text| Sketch::from_text(text).ok());
    Ok(Adapter { adapters, base: config.base, fingerprint, sketch, format: Format::Mlx, notes: Vec::new() })
}

/// `[rows, columns]` of `from` into `[columns, rows]`.
fn transpose(from: &[f32], columns: usize, to: &mut [f32]) {
    let rows = from.len() / columns.max(1);
    for (at, x) in from.iter().enumerate() {
        to[at % columns * rows + at / columns] = *x;
    }
}

struct Config {
    scale: f64,
    base: Option<String>,
}

impl Config {
    fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
        Self::parse(&text).map_err(|e| Error::Adapter(format!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> Result<Self> {
        let wrong = |message: String| Err(Error::Adapter(message));
        let values: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::Adapter(e.to_string()))?;
        let kind = values.get("fine_tune_type").map_or("lora", |kind| kind.as_str().unwrap_or("?"));
        if kind != "lora" {
            return wrong(format!("fine_tune_type is {kind:?}; only \"lora\" is read"));
        }
        let Some(parameters) = values.get("lora_parameters").and_then(Value::as_object) else {
            return wrong("lora_parameters is missing; mlx-lm writes rank and scale there".into());
        };
        if let Some(alpha) = parameters.get("alpha").filter(|alpha| !alpha.is_null()) {
            return wrong(format!(
                "lora_parameters.alpha is {alpha}: early versions of mlx-lm multiplied scale by alpha / rank, later ones \
                 ignore alpha; set scale to what it was trained with and remove alpha"
            ));
        }
        match parameters.get("scale").and_then(Value::as_f64).filter(|scale| scale.is_finite()) {
            Some(scale) => {
                Ok(Self { scale, base: values.get("model").and_then(Value::as_str).map(String::from) })
            }
            None => wrong("lora_parameters.scale is missing or not a number".into()),
        }
    }
}

/// Both matrices of one module.
struct Pair<'a> {
    linear: &'a LinearSpec,
    rank: usize,
    /// The module's name in the file.
    own: String,
}

/// The adapted modules, by name.
fn pairs<'a>(source: &SafetensorsSource, spec: &'a DecoderSpec) -> Result<BTreeMap<String, Pair<'a>>> {
    let linears: BTreeMap<&str, &LinearSpec> = spec.linears().map(|l| (l.module.as_str(), l)).collect();
    let (mut problems, mut strangers) = (Problems::default(), Vec::new());
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for name in source.names() {
        if strangers.len() >= MOST_TOLD {
            strangers.push("... and perhaps more".into());
            break;
        }
        let halves = [("lora_a", "lora_b"), ("lora_b", "lora_a")];
        let half = halves
            .iter()
            .find_map(|(half, other)| Some((name.strip_suffix(half)?.strip_suffix('.')?, *other)));
        let Some((own, other)) = half else {
            strangers.push(format!(
                "{} is not lora_a or lora_b of a linear module, and is not supported",
                shown(&name)
            ));
            continue;
        };
        let module = layout::module_of(own, |name| linears.contains_key(name));
        let Some(linear) = module.as_deref().and_then(|module| linears.get(module)) else {
            let (family, hint) = (&spec.model_type, hint(own, linears.keys().copied()));
            strangers.push(format!("{} adapts no linear module of this {family}{hint}", shown(&name)));
            continue;
        };
        if source.shape(&format!("{own}.{other}")).is_none() {
            problems.add(format!("{own} has only half of its pair lora_a, lora_b"));
            continue;
        }
        let shape = |half: &str| source.shape(&format!("{own}.{half}")).unwrap_or_default();
        let (a, b) = (shape("lora_a"), shape("lora_b"));
        let rank = a.get(1).copied().unwrap_or(0);
        problems.require(rank > 0 && a == [linear.inputs, rank] && b == [rank, linear.outputs], || {
            let (inputs, outputs) = (linear.inputs, linear.outputs);
            format!(
                "{own} has lora_a {a:?} and lora_b {b:?}; this base needs [{inputs}, r] and [r, {outputs}]"
            )
        });
        let pair = Pair { linear, rank, own: own.to_string() };
        if let Some(other) = pairs.insert(linear.module.clone(), pair).filter(|other| other.own != own) {
            problems.add(format!("{own} and {} name the same module", other.own));
        }
    }
    strangers.into_iter().for_each(|stranger| problems.add(stranger));
    problems.require(!source.names().is_empty(), || "there are no tensors".into());
    problems.finish().map_err(|e| Error::Adapter(e.to_string()))?;
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_lora_is_refused() {
        for (text, word) in [
            (r#"{"fine_tune_type": "dora", "lora_parameters": {"scale": 2.0}}"#, "dora"),
            (r#"{"fine_tune_type": "full"}"#, "full"),
            (r#"{"fine_tune_type": "lora"}"#, "lora_parameters"),
            (r#"{"lora_parameters": {"rank": 8}}"#, "scale"),
            (r#"{"lora_parameters": {"rank": 8, "scale": 10.0, "alpha": 16.0}}"#, "alpha"),
            ("[1]", "map"),
        ] {
            let Err(error) = Config::parse(text) else { panic!("{text} is read") };
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert_eq!(Config::parse(r#"{"lora_parameters": {"scale": 20}}"#).unwrap().scale, 20.0);
    }
}
