//! Keys of `lora` that are set for a run that continues an adapter (`lora.init_from`), which has values of its own.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::overrides::COMMAND_LINE;
use crate::cli::TrainArgs;
use crate::config::{Begins, RunConfig, Stage};
use crate::error::{Problems, Result};
use crate::files;
use crate::model::config::LoraConfig;
use crate::toolkit::{Base, adapt_alike};

/// Keys that a run may set although it continues an adapter.
const OF_RUN: [&str; 3] = ["lora_dropout", "reference", "init_from"];

/// Keys that say the same together: which modules, and the rank and the `lora_alpha` of each.
const TOGETHER: [&[&str]; 3] = [
    &["target_modules", "exclude_modules", "layers_to_transform"],
    &["r", "rank_pattern"],
    &["lora_alpha", "alpha_pattern"],
];

/// A key that is set, and where.
struct Set {
    key: String,
    value: Value,
    place: String,
}

/// Checks that each key of `lora` that is set has the value of the adapter that the run, or the first of its `stages`,
/// continues, or says the same in other words. `config` has the adapter's values already. A configuration that a run has written
/// passes.
///
/// # Errors
/// If a key differs; the error names every one.
pub(super) fn check(args: &TrainArgs, config: &RunConfig, stages: &[Stage], base: &Base) -> Result<()> {
    let Some(adapter) = &config.lora.init_from else { return Ok(()) };
    let mut problems = Problems::default();
    let all = set(args, stages)?;
    let same: Vec<&str> = TOGETHER
        .into_iter()
        .filter(|keys| {
            with(&config.lora, &all, keys).is_some_and(|lora| adapt_alike(&lora, &config.lora, base))
        })
        .flatten()
        .copied()
        .collect();
    for Set { key, value, place } in all.into_iter().filter(|set| !same.contains(&set.key.as_str())) {
        let given = normal(&Value::Mapping(Mapping::from_iter([(Value::from(key.as_str()), value)])), &key);
        let own = serde_yaml::to_value(&config.lora).ok().and_then(|lora| normal(&lora, &key));
        let (Some(given), Some(own)) = (given, own) else { continue };
        problems.require(given == own, || {
            format!(
                "{place}: lora.{key} is {}, and the run continues the adapter {} (lora.init_from), which has its own, {}; remove \
                 it, or name the adapter in model.adapter instead to train another one on top",
                shown(&given),
                adapter.display(),
                shown(&own)
            )
        });
    }
    problems.finish()
}

/// The configuration of the adapter with those of some keys that are set. The others of these have their defaults then, except
/// the rank and the `lora_alpha` of most modules.
fn with(lora: &LoraConfig, all: &[Set], keys: &[&str]) -> Option<LoraConfig> {
    let set: Vec<&Set> = all.iter().filter(|set| keys.contains(&set.key.as_str())).collect();
    if set.is_empty() {
        return None;
    }
    let mut written = serde_yaml::to_value(lora).ok()?;
    let sections = written.as_mapping_mut()?;
    for key in keys.iter().filter(|key| !["r", "lora_alpha"].contains(key)) {
        sections.remove(*key);
    }
    for set in set {
        sections.insert(Value::from(set.key.as_str()), set.value.clone());
    }
    serde_yaml::from_value(written).ok()
}

/// The keys that are set for the run or the first stage, by the file or on the command line.
fn set(args: &TrainArgs, stages: &[Stage]) -> Result<Vec<Set>> {
    // Common keys may be meant for an adapter that a later stage begins.
    let with_common = !stages.iter().skip(1).any(|stage| stage.begins == Begins::Stack);
    let mut found = match &args.config {
        Some(path) => in_file(path, with_common)?,
        None => Vec::new(),
    };
    // No flag sets a key of `lora`.
    for setting in &args.overrides {
        let Some((path, value)) = setting.split_once('=') else { continue };
        let of_stage = stages.first().map(|first| format!("stages.{}.lora.", first.name));
        let own = of_stage.and_then(|prefix| path.trim().strip_prefix(prefix.as_str()).map(String::from));
        let common = || path.trim().strip_prefix("lora.").filter(|_| with_common).map(String::from);
        let (Some(key), Ok(value)) = (own.or_else(common), serde_yaml::from_str::<Value>(value)) else {
            continue;
        };
        put(&mut found, Set { key, value, place: format!("{COMMAND_LINE}: --set {setting}") });
    }
    found.retain(|set| !OF_RUN.contains(&set.key.as_str()));
    Ok(found)
}

/// The keys that a configuration file sets. Those of a stage go over the common ones.
fn in_file(path: &Path, with_common: bool) -> Result<Vec<Set>> {
    let text = files::read_text(path)?;
    // What is no YAML was refused before.
    let Ok(file) = serde_yaml::from_str::<Value>(&text) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let shown = path.display();
    if with_common {
        for (key, value) in lora(&file) {
            let place =
                line_of(&text, &key).map_or_else(|| shown.to_string(), |line| format!("{shown}:{line}"));
            put(&mut found, Set { key, value, place });
        }
    }
    if let Some(first) = file.get("stages").and_then(|stages| stages.get(0_usize)) {
        for (key, value) in lora(first) {
            put(&mut found, Set { key, value, place: format!("{shown}: stages[0]") });
        }
    }
    Ok(found)
}

/// The keys of the section `lora`.
fn lora(sections: &Value) -> Vec<(String, Value)> {
    let keys = sections.get("lora").and_then(Value::as_mapping).into_iter().flatten();
    keys.filter_map(|(key, value)| Some((key.as_str()?.to_string(), value.clone()))).collect()
}

/// Sets a key, or with `key.inner` an entry of it.
fn put(found: &mut Vec<Set>, set: Set) {
    let Set { key, value, place } = set;
    let (key, value) = match key.split_once('.') {
        None => (key, value),
        Some((outer, inner)) => {
            let before =
                found.iter().find(|other| other.key == outer).and_then(|other| other.value.as_mapping());
            let mut entries = before.cloned().unwrap_or_default();
            entries.insert(Value::from(inner), value);
            (outer.to_string(), Value::Mapping(entries))
        }
    };
    found.retain(|other| other.key != key);
    found.push(Set { key, value, place });
}

/// The line of a key of the section `lora`, if the file has it in block style.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.len() == line.len() && !content.is_empty() && !content.starts_with('#') {
            inside = content.starts_with("lora:");
        } else if inside && content.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')) {
            return Some(index + 1);
        }
    }
    None
}

/// The value of a key as a whole configuration has it; names in a list are sorted. `None` if it is invalid, which is told
/// elsewhere.
fn normal(lora: &Value, key: &str) -> Option<Value> {
    let read: LoraConfig = serde_yaml::from_value(lora.clone()).ok()?;
    let mut value = serde_yaml::to_value(read).ok()?.get(key)?.clone();
    if let Value::Sequence(all) = &mut value {
        all.sort_by_cached_key(shown);
    }
    Some(value)
}

/// A value on one line.
fn shown(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_with_their_lines_and_the_last_one_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run.yaml");
        let text = "seed: 1\nlora:\n  # r: 3\n  r: 8\n  rank_pattern: {a: 1}\nstages:\n  - name: sft\n    lora: {r: 4}\n";
        std::fs::write(&path, text).unwrap();
        let mut found = in_file(&path, true).unwrap();
        put(&mut found, Set { key: "rank_pattern.b.c".into(), value: Value::from(2), place: String::new() });
        let told: Vec<String> =
            found.iter().map(|set| format!("{} {}", set.key, shown(&set.value))).collect();
        assert_eq!(told, ["r 4", "rank_pattern {\"a\":1,\"b.c\":2}"]);
        assert!(found[0].place.ends_with("run.yaml: stages[0]"), "{}", found[0].place);
        assert_eq!(
            (line_of(text, "r"), line_of(text, "rank_pattern"), line_of(text, "seed")),
            (Some(4), Some(5), None)
        );
        assert_eq!(in_file(&path, false).unwrap().len(), 1, "the keys of the stage alone");
    }

    #[test]
    fn values_are_compared_as_a_configuration_has_them() {
        let of = |text: &str, key: &str| normal(&serde_yaml::from_str(text).unwrap(), key);
        assert_eq!(of("lora_alpha: 8", "lora_alpha"), of("lora_alpha: 8.0", "lora_alpha"));
        let names = |text: &str| of(&format!("target_modules: {text}"), "target_modules");
        assert_eq!(names("[q_proj, v_proj]"), names("[v_proj, q_proj]"));
        assert_ne!(names("[q_proj, v_proj]"), names("all-linear"));
        assert_eq!(of("r: many", "r"), None);
    }
}
