//! `train -c` accepts every configuration in `configs/`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use dpo_lora::config::{Recipe, RunConfig};
use dpo_lora::hub::{DatasetRef, HubId};
use dpo_lora::train::course::Course;

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
        let recipe = Recipe::from_file(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let resolved = match &recipe {
            Recipe::Single(config) => config.to_yaml(),
            Recipe::Staged(staged) => staged.to_yaml(),
        };
        let again = Recipe::from_yaml(&resolved.unwrap(), "resolved", &[]).unwrap();
        assert_eq!(again, recipe, "{}", path.display());
    }
}

/// Ours, which name no source.
const OWN: [&str; 4] = ["example.yaml", "quickstart.yaml", "gemma3-4b-text.yaml", "stages.yaml"];

fn recipes() -> Vec<PathBuf> {
    let mut paths = configs();
    paths.retain(|path| !OWN.contains(&path.file_name().unwrap().to_str().unwrap()));
    paths
}

#[test]
fn every_recipe_names_its_source_and_is_in_the_book() {
    let book =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/losses.md")).unwrap();
    assert!(recipes().len() >= 15);
    for path in recipes() {
        let (name, text) =
            (path.file_name().unwrap().to_str().unwrap(), std::fs::read_to_string(&path).unwrap());
        let source = text.lines().find_map(|line| line.strip_prefix("# Source: "));
        let source = source.unwrap_or_else(|| panic!("{name} names no source"));
        assert!(source.starts_with("https://github.com/") || source.starts_with("ours"), "{name}: {source}");
        assert!(
            source.starts_with("ours") || text.contains("\n# Translated: "),
            "{name} does not say what differs"
        );
        assert!(book.contains(&format!("`configs/{name}`")), "docs/src/losses.md does not name {name}");
    }
}

/// What a recipe names is an id of the Hub, or a file that its comment says how to get.
#[test]
fn every_recipe_names_models_and_data_that_anyone_can_get() {
    for path in recipes() {
        let (config, text) =
            (RunConfig::from_file(&path, &[]).unwrap(), std::fs::read_to_string(&path).unwrap());
        let name = path.display();
        // The embedded model and its data are in the program.
        if config.model.base != "tiny-reviews" {
            HubId::parse(&config.model.base).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let is_named = |source: &String| !source.starts_with("tiny-reviews/");
        for source in config.data.train.paths().into_iter().filter(is_named) {
            match source.strip_prefix("hub:") {
                Some(id) => drop(DatasetRef::parse(id).unwrap_or_else(|error| panic!("{name}: {error}"))),
                None => assert!(
                    source == "pairs.jsonl" || text.contains(&format!("to {source}")),
                    "{name}: {source}"
                ),
            }
        }
    }
}

/// With about as many pairs as its data have, no recipe is too short or too long.
#[test]
fn no_recipe_is_warned_of() {
    let pairs = [
        ("dpo-paper-hh", 160_800),
        ("dpo-paper-imdb", 20_000),
        ("dpo-paper-tldr", 92_858),
        ("gemma3-270m-laptop", 500),
        ("grpo-tiny-reviews", 2000),
        ("kto-llama3-8b", 13_500),
        ("olmo3-7b-instruct", 259_922),
        ("orpo-mistral-7b", 60_917),
        ("qwen2.5-0.5b-laptop", 500),
        ("reward-qwen2.5-0.5b", 62_135),
        ("simpo-llama3-8b", 59_876),
        ("smollm2-1.7b", 61_135),
        ("smollm2-360m", 61_135),
        ("smollm3-3b", 169_000),
        ("tulu3-8b", 271_409),
        ("zephyr-7b", 61_135),
        ("zephyr-7b-qlora", 61_135),
    ];
    assert_eq!(pairs.map(|(name, _)| format!("{name}.yaml")).to_vec(), {
        let mut names: Vec<String> =
            recipes().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect();
        names.sort_by_key(|name| name.trim_end_matches(".yaml").to_string());
        names
    });
    for (name, records) in pairs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/{name}.yaml"));
        let config = RunConfig::from_file(path, &[]).unwrap();
        let needs = config.objective.resolve().unwrap().needs();
        let course = Course::new(&config.train, &config.lora, records, needs);
        assert_eq!(course.warnings(), Vec::<String>::new(), "{name}: {course}");
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
