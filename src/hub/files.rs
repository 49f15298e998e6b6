//! Which files of a repository a model or an adapter needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::path::{Listing, RepoPath};
use crate::error::{Error, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// Read if they exist; not every model has all of them.
const OPTIONAL: [&str; 8] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
/// Vocabularies that are read where there is no tokenizer.json.
const VOCABULARIES: [&str; 2] = ["tokenizer.model", "tekken.json"];
/// Templates besides the default one.
const TEMPLATES: &str = "additional_chat_templates/";
/// Limit of an index's size; it names a few hundred thousand tensors at most.
const MAX_INDEX: u64 = 64 << 20;

/// The files that are needed, or why they are not available.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// These files, and those that the index among them names.
    Files { files: Vec<RepoPath>, index: Option<RepoPath> },
    /// These files are needed and missing; `instead` exists but is not supported.
    Missing { files: Vec<&'static str>, instead: Vec<String> },
}

/// The files of a model. A single file of weights is preferred to an index, as in transformers.
pub(super) fn model(listing: &Listing) -> Plan {
    let weights = [WEIGHTS, INDEX].into_iter().find(|name| listing.contains(*name));
    let missing: Vec<_> = [(CONFIG, listing.contains(CONFIG)), (WEIGHTS, weights.is_some())]
        .iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        return Plan::Missing { files: missing, instead: foreign_weights(listing) };
    }
    let vocabularies: &[&str] = if listing.contains("tokenizer.json") { &[] } else { &VOCABULARIES };
    let optional = OPTIONAL.iter().chain(vocabularies).filter(|name| listing.contains(**name)).copied();
    let templates = listing
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with(TEMPLATES) && name.ends_with(".jinja"));
    let files =
        [CONFIG].into_iter().chain(optional).chain(templates).chain(weights).filter_map(plain).collect();
    Plan::Files { files, index: weights.filter(|name| *name == INDEX).and_then(plain) }
}

/// The files of a PEFT adapter.
pub(super) fn adapter(listing: &Listing) -> Plan {
    let missing: Vec<_> = ADAPTER.into_iter().filter(|name| !listing.contains(*name)).collect();
    if missing.is_empty() {
        Plan::Files { files: ADAPTER.into_iter().filter_map(plain).collect(), index: None }
    } else {
        Plan::Missing { files: missing, instead: foreign_weights(listing) }
    }
}

fn plain(name: &str) -> Option<RepoPath> {
    RepoPath::parse(name).ok()
}

fn foreign_weights(listing: &Listing) -> Vec<String> {
    let foreign = |name: &&String| {
        [".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf"].iter().any(|extension| name.ends_with(extension))
    };
    listing.iter().filter(foreign).take(3).cloned().collect()
}

/// The files that the index at `path` names, in the order of their names.
///
/// # Errors
/// [`Error::Weights`] if it is not an index, or names a file that is not a plain `.safetensors` beside it.
pub(super) fn shards(path: &Path) -> Result<Vec<RepoPath>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let wrong = |why: String| Error::Weights(format!("{}: {why}", path.display()));
    let size = fs::metadata(path).map_err(Error::read(path))?.len();
    if size > MAX_INDEX {
        return Err(wrong(format!("{size} bytes are too many for an index (at most {MAX_INDEX})")));
    }
    let text = fs::read(path).map_err(Error::read(path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| wrong(format!("not an index of safetensors files: {e}")))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(wrong("`weight_map` names no file".into()));
    }
    let check = |name: &String| {
        RepoPath::parse(name)
            .ok()
            .filter(|file| file.depth() == 0 && name.ends_with(".safetensors"))
            .ok_or_else(|| {
                wrong(format!(
                    "`weight_map` names `{}`; a shard must be a .safetensors file beside the index",
                    name.escape_default()
                ))
            })
    };
    names.iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn names(plan: Plan) -> (Vec<String>, Option<String>) {
        match plan {
            Plan::Files { files, index } => {
                (files.iter().map(ToString::to_string).collect(), index.map(|i| i.to_string()))
            }
            Plan::Missing { .. } => panic!("{plan:?}"),
        }
    }

    #[test]
    fn a_model_is_what_is_needed_and_no_more() {
        let (files, index) = names(model(&listing(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "tokenizer.json",
            "../x",
        ])));
        assert_eq!(files, ["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(index, None);
        let (files, _) = names(model(&listing(&[
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/notes.txt",
            "config.json",
            "model.safetensors",
            "tokenizer.model",
        ])));
        let template = "additional_chat_templates/tool_use.jinja";
        assert_eq!(files, ["config.json", "tokenizer.model", template, "model.safetensors"]);
        let (_, index) = names(model(&listing(&["config.json", "model.safetensors.index.json"])));
        assert_eq!(index.as_deref(), Some(INDEX));
    }

    #[test]
    fn what_is_missing_is_named_at_once_with_what_is_there_instead() {
        assert_eq!(
            model(&listing(&["pytorch_model.bin"])),
            Plan::Missing { files: vec![CONFIG, WEIGHTS], instead: vec!["pytorch_model.bin".into()] }
        );
        assert_eq!(
            adapter(&listing(&["adapter_config.json", "adapter_model.bin"])),
            Plan::Missing { files: vec![ADAPTER[1]], instead: vec!["adapter_model.bin".into()] }
        );
        assert_eq!(names(adapter(&listing(&ADAPTER))).0, ADAPTER);
    }

    #[test]
    fn shards_stay_beside_their_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            shards(&path)
        };
        let good = read(
            r#"{"metadata": {}, "weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#,
        );
        assert_eq!(
            good.unwrap().iter().map(RepoPath::as_str).collect::<Vec<_>>(),
            ["m-1.safetensors", "m-2.safetensors"]
        );
        for name in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "sub/x.safetensors",
            "x.bin",
            "",
            "..\\\\x.safetensors",
            "C:x.safetensors",
        ] {
            let error = read(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#)).unwrap_err().to_string();
            assert!(error.contains("beside the index"), "{name}: {error}");
        }
        for text in ["", "[]", "{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 1}}"#] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
