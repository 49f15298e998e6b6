//! Resuming a run under a changed configuration: what may change, and what may not.

use std::path::Path;

use serde_yaml::Value;

use super::RunConfig;
use crate::error::{Error, Result};

/// Keys that a resumed run may change: its length, what it prints and keeps, how fast it computes.
const FREE: &[&str] = &[
    "output_dir",
    "data.eval",
    "model.base",
    "model.base_name",
    "model.device",
    "train.num_train_epochs",
    "train.max_steps",
    "train.per_device_eval_batch_size",
    "train.gradient_checkpointing",
    "train.reference_cache",
    "train.threads",
    "train.rank_timeout",
    "train.logging_steps",
    "train.eval_steps",
    "train.save_steps",
    "train.save_minutes",
    "train.save_total_limit",
    "train.early_stopping_patience",
    "train.load_best_model_at_end",
    "train.report_to",
    "train.run_name",
    "train.sample_prompts",
    "train.sample_steps",
    "watch.max_reward",
    "watch.max_chosen_drop",
    "watch.max_kl",
    "watch.chance_pairs",
];

/// Of those, the ones after which the run no longer ends with the bytes it would have ended with.
const TOLD: &[&str] = &["train.num_train_epochs", "train.max_steps"];

impl RunConfig {
    /// Compares with the configuration of the checkpoint that is resumed; returns a notice of what changed.
    ///
    /// # Errors
    /// [`Error::Config`] naming every change that would make it a different run.
    pub fn compare_for_resume(&self, before: &str) -> Result<Vec<String>> {
        let broken = |e: serde_yaml::Error| Error::Config(format!("the checkpoint's configuration: {e}"));
        let mut before: Value = serde_yaml::from_str(before).map_err(broken)?;
        complete(&mut before, &super::defaults()?);
        self.rebase(&mut before);
        let now: Value = serde_yaml::to_value(self).map_err(broken)?;
        let mut changes = Vec::new();
        differences("", &before, &now, &mut changes);
        let refused: Vec<String> = changes
            .iter()
            .filter(|(key, ..)| !FREE.contains(&key.as_str()))
            .map(|(key, before, now)| format!("{key} was {before}, is {now}"))
            .collect();
        if !refused.is_empty() {
            return Err(Error::Config(format!(
                "the run cannot be resumed with another configuration: {}. Set it back, or use --overwrite to start over",
                refused.join("; ")
            )));
        }
        Ok(changes
            .into_iter()
            .filter(|(key, ..)| key != "output_dir")
            .map(|(key, before, now)| {
                let effect = if TOLD.contains(&key.as_str()) { self.effect_of_length() } else { "" };
                format!("{key} was {before}, is {now}{effect}")
            })
            .collect())
    }

    /// What another length changes.
    fn effect_of_length(&self) -> &'static str {
        match self.objective.modifiers.beta_end {
            Some(_) => " (the learning rate and beta follow the new length)",
            None => " (the learning rate follows the new length)",
        }
    }
}

impl RunConfig {
    /// Moves the adapters of earlier stages, which stand beside the run directory, to where the run directory is now.
    fn rebase(&self, before: &mut Value) {
        let beside = |path: &Path| path.parent().map(Path::to_path_buf);
        let was = before.get("output_dir").and_then(Value::as_str).and_then(|path| beside(Path::new(path)));
        let (Some(was), Some(now)) = (was, beside(&self.output_dir)) else { return };
        let named = self.lora.init_from.iter().chain(&self.model.adapter).cloned().collect::<Vec<_>>();
        for (section, key) in [("lora", "init_from"), ("model", "adapter")] {
            let Some(value) = before.get_mut(section).and_then(|section| section.get_mut(key)) else {
                continue;
            };
            let texts = match value {
                Value::Sequence(all) => all.as_mut_slice(),
                one => std::slice::from_mut(one),
            };
            for text in texts {
                let inside = text.as_str().and_then(|path| Path::new(path).strip_prefix(&was).ok());
                let moved = inside.map(|inside| now.join(inside)).filter(|moved| named.contains(moved));
                if let Some(moved) = moved.as_deref().and_then(Path::to_str) {
                    *text = moved.into();
                }
            }
        }
    }
}

/// Gives a configuration the keys that it lacks, with their defaults: it was written before there were such keys.
fn complete(before: &mut Value, defaults: &Value) {
    let (Value::Mapping(before), Value::Mapping(defaults)) = (before, defaults) else { return };
    for (name, default) in defaults {
        let found = before.entry(name.clone()).or_insert_with(|| default.clone());
        if let (Value::Mapping(section), Value::Mapping(keys)) = (found, default) {
            for (key, default) in keys {
                section.entry(key.clone()).or_insert_with(|| default.clone());
            }
        }
    }
}

/// Leaves that differ: path, before, now.
fn differences(path: &str, before: &Value, now: &Value, found: &mut Vec<(String, String, String)>) {
    match (before, now) {
        (Value::Mapping(a), Value::Mapping(b)) if path.split('.').count() < 2 || path.is_empty() => {
            for (key, now) in b {
                let name = key.as_str().unwrap_or("?");
                let inner = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                differences(&inner, a.get(key).unwrap_or(&Value::Null), now, found);
            }
        }
        _ if before != now => {
            let text = |v: &Value| serde_yaml::to_string(v).unwrap_or_default().trim().replace('\n', ", ");
            found.push((path.to_string(), text(before), text(now)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_may_change_are_keys() {
        let keys = super::super::defaults().unwrap();
        for key in FREE.iter().chain(TOLD) {
            let found = key.split('.').try_fold(&keys, |section, part| section.get(part));
            assert!(found.is_some_and(|value| !value.is_mapping()), "{key} is not a key of a configuration");
        }
        assert!(TOLD.iter().all(|key| FREE.contains(key)), "{TOLD:?} are among the keys that may change");
    }

    #[test]
    fn more_steps_are_told_and_another_rank_is_refused() {
        let old = RunConfig::new("b", "d");
        let yaml = old.to_yaml().unwrap();
        assert!(old.compare_for_resume(&yaml).unwrap().is_empty());
        let mut longer = old.clone();
        longer.train.max_steps = Some(7);
        longer.train.logging_steps = 3;
        let told = longer.compare_for_resume(&yaml).unwrap().join("\n");
        assert!(told.contains("train.max_steps was null, is 7") && told.contains("logging_steps"), "{told}");
        let mut other = old.clone();
        other.lora.r = 8;
        other.seed = 1;
        let error = other.compare_for_resume(&yaml).unwrap_err().to_string();
        assert!(error.contains("lora.r was 16, is 8") && error.contains("seed was 42, is 1"), "{error}");
    }

    #[test]
    fn a_key_that_is_newer_than_the_checkpoint_had_its_default() {
        let now = RunConfig::new("b", "d");
        let mut old: Value = serde_yaml::from_str(&now.to_yaml().unwrap()).unwrap();
        for (section, key) in [
            ("train", "sync_ref_model"),
            ("train", "ref_model_mixup_alpha"),
            ("train", "loraplus_lr_ratio"),
            ("lora", "init_lora_weights"),
            ("objective", "use_weighting"),
        ] {
            old[section].as_mapping_mut().unwrap().remove(key);
        }
        old.as_mapping_mut().unwrap().remove("watch").unwrap();
        let old = serde_yaml::to_string(&old).unwrap();
        assert_eq!(now.compare_for_resume(&old).unwrap(), Vec::<String>::new());
        let mut other = now.clone();
        other.train.sync_ref_model = true;
        let error = other.compare_for_resume(&old).unwrap_err().to_string();
        assert!(error.contains("train.sync_ref_model was false, is true"), "{error}");
    }

    #[test]
    fn beta_follows_the_length_where_it_changes_during_the_run() {
        let mut now = RunConfig::new("b", "d");
        let told = |now: &RunConfig| {
            let yaml = now.to_yaml().unwrap();
            let mut longer = now.clone();
            longer.train.max_steps = Some(7);
            longer.compare_for_resume(&yaml).unwrap().join("\n")
        };
        assert!(told(&now).ends_with("(the learning rate follows the new length)"));
        now.objective.modifiers.beta_end = Some(0.01);
        assert!(told(&now).ends_with("(the learning rate and beta follow the new length)"));
    }
}
