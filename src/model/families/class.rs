//! What transformers' configuration classes take for a key that a `config.json` leaves out: `defaults.json`, written by
//! `tests/parity/family_defaults.py` from the classes themselves, so that no default is written by hand.

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
    /// The types of fields, as `int|null`.
    types: BTreeMap<String, String>,
    /// Other name of a field → the field.
    attribute_map: BTreeMap<String, String>,
    /// Keys that are no fields, but that the class or its model reads, and their defaults.
    extra: Map<String, Value>,
    /// Rotary defaults.
    rope: Rope,
    /// The configurations within.
    sub_configs: BTreeMap<String, SubConfig>,
    /// Of `_common` alone: keys that set how text is generated.
    ignored: Vec<String>,
    /// Of `_common` alone: keys that every class accepts and that name no part of the model.
    accepted: Vec<String>,
}

/// What the class says of the rotary embedding.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rope {
    theta: Value,
    partial_rotary_factor: Option<f64>,
}

/// The class of a configuration within another.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SubConfig {
    /// The `model_type`, whatever the file says.
    pub fixed: Option<String>,
    /// The `model_type` where the file says none.
    pub default: Option<String>,
}

impl Class {
    /// The class of a `model_type`.
    pub fn of(model_type: &str) -> Option<&'static Self> {
        all().get(model_type).filter(|_| model_type != COMMON)
    }

    /// What the class takes where the file has no `key`.
    pub fn default(&self, key: &str) -> Option<&Value> {
        self.defaults.get(key).or_else(|| self.extra.get(key)).filter(|value| !value.is_null())
    }

    /// The other names of a field.
    pub fn other_names(&self, key: &str) -> impl Iterator<Item = &str> {
        self.attribute_map.iter().filter(move |(_, field)| *field == key).map(|(other, _)| other.as_str())
    }

    /// Other name and field, for all.
    pub fn all_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attribute_map.iter().map(|(other, field)| (other.as_str(), field.as_str()))
    }

    /// θ of the rotary embedding; with a `kind` (`global`, `local`) that of a kind of layer.
    pub fn theta(&self, kind: &str) -> f64 {
        let theta = self.rope.theta.get(kind).unwrap_or(&self.rope.theta);
        theta.as_f64().unwrap_or(10_000.0)
    }

    /// Share of a head's features that turn.
    pub fn partial_rotary_factor(&self) -> f64 {
        self.rope.partial_rotary_factor.unwrap_or(1.0)
    }

    /// The class of the configuration under `key`.
    pub fn sub_config(&self, key: &str) -> Option<&SubConfig> {
        self.sub_configs.get(key)
    }

    /// Whether a key is one of the class's own fields.
    pub fn is_field(&self, key: &str) -> bool {
        self.defaults.contains_key(key)
    }

    /// The type that `key` must have and `value` does not.
    pub fn misfit(&self, key: &str, value: &Value) -> Option<&str> {
        let types = self.types.get(key)?;
        (!types.split('|').any(|kind| is_a(value, kind))).then_some(types.as_str())
    }
}

/// Whether a key sets how text is generated, or is one that every class accepts.
pub(super) fn is_common(key: &str) -> bool {
    all().get(COMMON).is_some_and(|common| {
        common.ignored.iter().chain(&common.accepted).any(|known| known == key)
            || common.defaults.contains_key(key)
    }) && key != "transformers_weights"
}

const COMMON: &str = "_common";

fn all() -> &'static BTreeMap<String, Class> {
    static ALL: OnceLock<BTreeMap<String, Class>> = OnceLock::new();
    // The file is part of the program, and a test parses it.
    ALL.get_or_init(|| serde_json::from_str(DEFAULTS).unwrap_or_default())
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "bool" => value.is_boolean(),
        "int" => value.is_i64() || value.is_u64(),
        // As in Python: 1 is an int.
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
