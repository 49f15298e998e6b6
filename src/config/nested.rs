//! Sections that are null unless they are set.

use serde_yaml::Value;

use crate::model::beside::{AdapterLayersConfig, PrefixConfig};
use crate::model::initialisation::EvaConfig;

/// Returns the keys of such a section with the values that they have once it is set; `None` of any other key.
pub(super) fn nested(section: &str, key: &str) -> Option<Value> {
    match (section, key) {
        ("lora", "eva_config") => serde_yaml::to_value(EvaConfig::default()).ok(),
        ("lora", "prefix_tuning") => serde_yaml::to_value(PrefixConfig::default()).ok(),
        ("lora", "adapter_layers") => serde_yaml::to_value(AdapterLayersConfig::default()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    /// A key that is null by default and accepts an empty mapping is such a section, or a map of the user's own names.
    #[test]
    fn every_section_that_is_null_by_default_is_known() {
        let defaults = defaults().unwrap();
        for (section, keys) in defaults.as_mapping().unwrap() {
            let section = section.as_str().unwrap();
            for (key, value) in keys.as_mapping().into_iter().flatten() {
                let (key, text) = (key.as_str().unwrap(), "model: {base: m}\ndata: {train: d}\n");
                let set = [format!("{section}.{key}={{a_key_of_nothing: 1}}")];
                let error = super::super::RunConfig::from_yaml(text, "run.yaml", &set)
                    .map_or_else(|e| e.to_string(), |_| String::new());
                let is_section = value.is_null() && error.contains("unknown field `a_key_of_nothing`");
                assert_eq!(is_section, nested(section, key).is_some(), "{section}.{key}: {error}");
            }
        }
    }
}
