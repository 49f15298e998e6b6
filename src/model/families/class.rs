//! The defaults that transformers' configuration classes use for keys missing from a `config.json`. They come from
//! `defaults.json`, which `tests/parity/family_defaults.py` generates from the classes, so no default is written by
//! hand.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

const DEFAULTS: &str = include_str!("defaults.json");

/// A configuration class of transformers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Class {
    /// The class's fields and their defaults.
    defaults: Map<String, Value>,
    /// The types of the fields, such as `int|null`.
    types: BTreeMap<String, String>,
    /// Maps alternative names to fields.
    attribute_map: BTreeMap<String, String>,
    /// Keys that are not fields but are read by the class or its model, with their defaults.
    extra: Map<String, Value>,
    /// Rotary defaults.
    rope: Rope,
    /// The nested configurations.
    sub_configs: BTreeMap<String, SubConfig>,
    /// Only in `_common`: keys that control text generation.
    ignored: Vec<String>,
    /// Only in `_common`: keys that every class accepts and that describe no part of the model.
    accepted: Vec<String>,
}

/// The class's rotary defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rope {
    theta: Value,
    partial_rotary_factor: Option<f64>,
}

/// The class of a nested configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubConfig {
    /// The `model_type` regardless of the file.
    pub fixed: Option<String>,
    /// The `model_type` if the file does not give one.
    pub default: Option<String>,
}

impl Class {
    /// Returns the class of a `model_type`.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        all().get(model_type).filter(|_| model_type != COMMON)
    }

    /// The class's default for a `key` missing from the file.
    pub fn default(&self, key: &str) -> Option<&Value> {
        self.defaults.get(key).or_else(|| self.extra.get(key)).filter(|value| !value.is_null())
    }

    /// The alternative names of a field.
    pub fn other_names(&self, key: &str) -> impl Iterator<Item = &str> {
        self.attribute_map.iter().filter(move |(_, field)| *field == key).map(|(other, _)| other.as_str())
    }

    /// All pairs of alternative name and field.
    pub fn all_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attribute_map.iter().map(|(other, field)| (other.as_str(), field.as_str()))
    }

    /// The rotary θ; with a `kind` (`global`, `local`), the one for that kind of layer.
    pub fn theta(&self, kind: &str) -> f64 {
        let theta = self.rope.theta.get(kind).unwrap_or(&self.rope.theta);
        theta.as_f64().unwrap_or(10_000.0)
    }

    /// The share of a head's features that are rotated.
    pub fn partial_rotary_factor(&self) -> f64 {
        self.rope.partial_rotary_factor.unwrap_or(1.0)
    }

    /// The class of the nested configuration under `key`.
    pub fn sub_config(&self, key: &str) -> Option<&SubConfig> {
        self.sub_configs.get(key)
    }

    /// Returns whether a key is one of the class's own fields.
    pub fn is_field(&self, key: &str) -> bool {
        self.defaults.contains_key(key)
    }

    /// Returns the required type of `key` if `value` does not have it.
    pub fn misfit(&self, key: &str, value: &Value) -> Option<&str> {
        let types = self.types.get(key)?;
        (!types.split('|').any(|kind| is_a(value, kind))).then_some(types.as_str())
    }
}

/// Returns whether a key controls text generation, or is accepted by every class.
pub(super) fn is_common(key: &str) -> bool {
    all().get(COMMON).is_some_and(|common| {
        common.ignored.iter().chain(&common.accepted).any(|known| known == key)
            || common.defaults.contains_key(key)
    }) && key != "transformers_weights"
}

const COMMON: &str = "_common";

fn all() -> &'static BTreeMap<String, Class> {
    static ALL: OnceLock<BTreeMap<String, Class>> = OnceLock::new();
    // The file is compiled into the program, and a test parses it.
    ALL.get_or_init(|| serde_json::from_str(DEFAULTS).unwrap_or_default())
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        // As in Python, an integer such as 1 is an int.
        "float" => value.is_f64(),
        "string" => value.is_string(),
        "object" => value.is_object(),
        "list[int]" => is_list_of(value, |v| v.is_i64() || v.is_u64()),
        "list[string]" => is_list_of(value, Value::is_string),
        _ => true,
    }
}

fn is_list_of(value: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(fits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses_and_knows_the_families() {
        let table: BTreeMap<String, Class> = serde_json::from_str(DEFAULTS).unwrap();
        assert!(table.len() > 30);
        let qwen2 = Class::of("qwen2").unwrap();
        assert_eq!(qwen2.default("max_window_layers"), Some(&Value::from(28)));
        assert_eq!(qwen2.default("head_dim"), None);
        assert_eq!(Class::of("gemma3_text").unwrap().theta("local"), 10_000.0);
        assert_eq!(Class::of("smollm3").unwrap().theta("global"), 2_000_000.0);
        assert_eq!(Class::of("stablelm").unwrap().partial_rotary_factor(), 0.25);
        assert_eq!(Class::of("gpt2").unwrap().other_names("n_embd").collect::<Vec<_>>(), ["hidden_size"]);
        assert!(Class::of("_common").is_none() && is_common("temperature") && !is_common("rope_theta"));
    }

    #[test]
    fn values_of_another_type_are_misfits() {
        let qwen2 = Class::of("qwen2").unwrap();
        assert_eq!(qwen2.misfit("use_cache", &Value::from("yes")), Some("bool"));
        assert_eq!(qwen2.misfit("num_key_value_heads", &Value::Null), None);
        assert_eq!(qwen2.misfit("hidden_size", &Value::from(1.5)), Some("int"));
        assert_eq!(qwen2.misfit("rms_norm_eps", &Value::from(1)), Some("float"));
    }
}
