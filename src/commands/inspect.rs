//! `dpo-lora inspect`: what a base, an adapter or a run directory is.

mod adapter;
mod run;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{print, print_json, print_text};
use crate::adapter::fingerprint::shortened;
use crate::adapter::{peft, read};
use crate::cli::InspectArgs;
use crate::error::{Error, Result};
use crate::toolkit::{Base, OpenOptions, embedded, is_gguf_file};
use crate::train::run_dir;

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
    Adapter(Box<adapter::Found>),
    Run(Box<run::Run>),
    Runs {
        path: String,
        runs: Vec<run::Run>,
    },
    Checkpoint(Box<run::Checkpoint>),
}

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let path = embedded::path(&args.path)?.unwrap_or_else(|| PathBuf::from(&args.path));
    let is_adapter = read::is_adapter(&path);
    if !is_adapter && (args.base.is_some() || args.against.is_some()) {
        return Err(Error::Config(format!(
            "{} is not an adapter; --base and --against apply to adapters only",
            path.display()
        )));
    }
    let found = if is_adapter {
        Found::Adapter(Box::new(adapter::inspect(&path, args)?))
    } else if path.join("config.json").exists() || is_gguf_file(&path) {
        base(&path)?
    } else if run_dir::is_run(&path) || path.join("config.yaml").exists() {
        Found::Run(Box::new(run::Run::read(&path)))
    } else if run::is_checkpoint(&path) {
        Found::Checkpoint(Box::new(run::read_checkpoint(&path)?))
    } else {
        let runs = run::runs_in(&path);
        if runs.is_empty() {
            return Err(unknown(&path));
        }
        Found::Runs { path: path.display().to_string(), runs }
    };
    match &found {
        found if args.json => print_json(found),
        Found::Adapter(found) => print_text(&found.table()),
        Found::Run(found) => print_text(&found.table()),
        Found::Checkpoint(found) => print_text(&found.table()),
        Found::Runs { runs, .. } => print(run::comparison(runs).as_bytes()),
        found => print_text(&text(found)?),
    }
}

fn base(path: &Path) -> Result<Found> {
    let base = Base::open_with(&path.to_string_lossy(), &OpenOptions::on_cpu())?;
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

/// The error for a path that is nothing that can be described.
fn unknown(path: &Path) -> Error {
    if path.exists() {
        return Error::Config(format!(
            "{} is neither a base (config.json, or a .gguf file), an adapter ({}), a run directory (config.yaml), a \
             checkpoint nor a folder of runs",
            path.display(),
            peft::CONFIG
        ));
    }
    let near = run_dir::nearby(path);
    let near = near.first().map_or(String::new(), |near| format!("; did you mean {}?", near.display()));
    Error::Config(format!("{} does not exist{near}", path.display()))
}

/// The same as `--json`, one field per line.
fn text(found: &Found) -> Result<String> {
    let value = serde_json::to_value(found).map_err(|e| Error::Data(e.to_string()))?;
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                text.push_str(&format!("{key}\n"));
                items.iter().for_each(|item| text.push_str(&format!("  {}\n", plain(item))));
            }
            serde_json::Value::String(hash) if key == "fingerprint" => {
                text.push_str(&format!("{key:18} {}\n", shortened(hash)));
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
