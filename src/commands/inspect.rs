//! `dpo-lora inspect`: what a base, an adapter or a run directory is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::base::Base;
use super::{embedded, print, print_json};
use crate::adapter::peft;
use crate::cli::InspectArgs;
use crate::error::{Error, Result};
use crate::model::config::{DeviceChoice, WeightDtype};
use crate::train::checkpoint;
use crate::weights::{SafetensorsSource, WeightSource};

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Found {
    Base {
        path: String,
        model_type: String,
        parameters: usize,
        layers: usize,
        hidden: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        vocab_size: usize,
        max_positions: usize,
        tied_head: bool,
        dtype: String,
        fingerprint: String,
    },
    Adapter {
        path: String,
        base: Option<String>,
        base_fingerprint: Option<String>,
        r: usize,
        lora_alpha: f64,
        use_rslora: bool,
        modules: usize,
        parameters: usize,
        largest: Vec<ModuleNorm>,
    },
    Run {
        path: String,
        step: Option<u64>,
        checkpoint: Option<String>,
        adapter: bool,
        damage: Vec<String>,
    },
}

/// ‖A‖·‖B‖ bounds ‖ΔW‖ from above; the matrices themselves need no base to be read.
#[derive(Serialize)]
struct ModuleNorm {
    module: String,
    rank: usize,
    norm_a: f64,
    norm_b: f64,
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let path = embedded::path(&args.path)?.unwrap_or_else(|| PathBuf::from(&args.path));
    let found = if path.join(peft::CONFIG).exists() {
        adapter(&path)?
    } else if path.join("config.yaml").exists() {
        run_directory(&path)
    } else if path.join("config.json").exists() {
        base(&path)?
    } else {
        return Err(Error::Config(format!(
            "{} is neither a base (config.json), an adapter ({}) nor a run directory (config.yaml)",
            path.display(),
            peft::CONFIG
        )));
    };
    if args.json { print_json(&found) } else { print(text(&found)?.as_bytes()) }
}

fn base(path: &Path) -> Result<Found> {
    let base = Base::open(&path.to_string_lossy(), WeightDtype::Auto, DeviceChoice::Cpu)?;
    let sizes = |name: &String| base.source.shape(name).map(|shape| shape.iter().product::<usize>());
    let parameters = base.source.names().iter().filter_map(sizes).sum();
    let decoder = base.decoder()?;
    let spec = decoder.spec();
    let heads = spec.layers.first().map(|layer| layer.attention.heads);
    Ok(Found::Base {
        path: path.display().to_string(),
        model_type: spec.model_type.clone(),
        parameters,
        layers: spec.layers.len(),
        hidden: spec.hidden,
        heads: heads.map_or(0, |h| h.n_head),
        kv_heads: heads.map_or(0, |h| h.n_kv_head),
        head_dim: heads.map_or(0, |h| h.head_dim),
        vocab_size: spec.vocab_size,
        max_positions: spec.max_positions,
        tied_head: spec.head.is_none(),
        dtype: decoder.storage().to_string(),
        fingerprint: base.fingerprint()?,
    })
}

fn adapter(path: &Path) -> Result<Found> {
    let config = peft::PeftConfig::open(path)?;
    let file = path.join(peft::WEIGHTS);
    let source = SafetensorsSource::open_files(path, std::slice::from_ref(&file))?;
    let norm = |name: &str| -> Result<f64> {
        let sum: f64 = source.get(name)?.elements().to_f32().iter().map(|x| f64::from(*x).powi(2)).sum();
        Ok(sum.sqrt())
    };
    let (mut modules, mut parameters) = (Vec::new(), 0);
    for name in source.names() {
        parameters += source.shape(&name).unwrap_or_default().iter().product::<usize>();
        let Some(stem) = name.strip_suffix(".lora_A.weight") else { continue };
        modules.push(ModuleNorm {
            module: stem.trim_start_matches("base_model.model.").to_string(),
            rank: source.shape(&name).and_then(|s| s.first().copied()).unwrap_or(0),
            norm_a: norm(&name)?,
            norm_b: norm(&format!("{stem}.lora_B.weight"))?,
        });
    }
    let count = modules.len();
    modules.sort_by(|a, b| (b.norm_a * b.norm_b).total_cmp(&(a.norm_a * a.norm_b)));
    modules.truncate(5);
    Ok(Found::Adapter {
        path: path.display().to_string(),
        base: config.base_model_name_or_path,
        base_fingerprint: peft::metadata(&file)?.get(peft::FINGERPRINT_KEY).cloned(),
        r: config.r,
        lora_alpha: config.lora_alpha,
        use_rslora: config.use_rslora,
        modules: count,
        parameters,
        largest: modules,
    })
}

fn run_directory(path: &Path) -> Found {
    let (newest, damage) = checkpoint::newest(path);
    Found::Run {
        path: path.display().to_string(),
        step: newest.as_ref().map(|(_, state)| state.step),
        checkpoint: newest.map(|(path, _)| path.display().to_string()),
        adapter: path.join("adapter").join(peft::CONFIG).exists(),
        damage,
    }
}

/// The same as `--json`, a line a field.
fn text(found: &Found) -> Result<String> {
    let value = serde_json::to_value(found).map_err(|e| Error::Data(e.to_string()))?;
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                text.push_str(&format!("{key}\n"));
                items.iter().for_each(|item| text.push_str(&format!("  {}\n", plain(item))));
            }
            value => text.push_str(&format!("{key:18} {}\n", plain(value))),
        }
    }
    Ok(text)
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".into(),
        serde_json::Value::Object(map) => {
            map.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join("  ")
        }
        other => other.to_string(),
    }
}
