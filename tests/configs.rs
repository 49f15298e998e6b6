//! `train -c` accepts every configuration in `configs/`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dpo_lora::config::RunConfig;

fn configs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

#[test]
fn every_config_parses_and_reads_back() {
    assert!(!configs().is_empty());
    for path in configs() {
        let config = RunConfig::from_file(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let again = RunConfig::from_yaml(&config.to_yaml().unwrap(), "resolved", &[]).unwrap();
        assert_eq!(again, config, "{}", path.display());
    }
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/example.yaml");
    let config = RunConfig::from_file(&path, &[]).unwrap();
    assert_eq!(config, RunConfig::new("Qwen/Qwen2.5-0.5B-Instruct", "pairs.jsonl"));

    let keys = |value: &serde_yaml::Value| -> Vec<String> {
        let mut keys = Vec::new();
        for (name, section) in value.as_mapping().unwrap() {
            let name = name.as_str().unwrap();
            match section.as_mapping() {
                Some(section) => {
                    keys.extend(section.keys().map(|key| format!("{name}.{}", key.as_str().unwrap())))
                }
                None => keys.push(name.to_string()),
            }
        }
        keys
    };
    let written: serde_yaml::Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    // The keys have the same order as in `to_yaml`.
    assert_eq!(keys(&written), keys(&serde_yaml::to_value(&config).unwrap()));
}
