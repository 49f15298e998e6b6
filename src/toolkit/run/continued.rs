//! The shape of an adapter that a run continues, as keys of `lora`. The adapter decides it, and the configuration says so.

use serde_json::{Map, Value};

use crate::adapter::peft;
use crate::config::RunConfig;
use crate::model::config::LoraConfig;
use crate::toolkit::Base;
use crate::trainable::{Adapter, Adapters};

/// The keys of `lora` that an adapter has values of its own for.
const SHAPE: [&str; 9] = [
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
];

/// Gives `lora` the shape of the adapter that the run continues. Prefixes and adapter layers have no such keys.
pub(super) fn fill(lora: &mut LoraConfig, adapters: &Adapters, base: &Base) {
    let has_matrices = adapters.iter().any(|adapter| adapter.low_rank().is_some());
    if !has_matrices || adapters.iter().any(Adapter::is_beside) {
        return;
    }
    let Ok(Value::Object(config)) = peft::config(adapters, &base.spec, 0.0, &peft::Origin::default()) else {
        return;
    };
    let shape: Map<String, Value> =
        config.into_iter().filter(|(key, _)| SHAPE.contains(&key.as_str())).collect();
    let Ok(shape) = serde_json::from_value::<LoraConfig>(Value::Object(shape)) else { return };
    let mut filled = lora.clone();
    adopt(&mut filled, &shape);
    // A configuration that is written must be one that can be read.
    if filled.validate().is_ok() {
        *lora = filled;
    }
}

/// Gives `to` the shape of `from`, and leaves its other keys.
pub(in crate::toolkit) fn adopt(to: &mut LoraConfig, from: &LoraConfig) {
    let from = from.clone();
    to.r = from.r;
    to.lora_alpha = from.lora_alpha;
    to.target_modules = from.target_modules;
    to.exclude_modules = from.exclude_modules;
    to.layers_to_transform = from.layers_to_transform;
    to.use_rslora = from.use_rslora;
    to.use_dora = from.use_dora;
    to.rank_pattern = from.rank_pattern;
    to.alpha_pattern = from.alpha_pattern;
}

/// Returns the configuration of a checkpoint with the shape of the adapter that the run continues: versions before noted the
/// keys of the configuration instead, which had no effect.
pub(super) fn noted(before: &str, config: &RunConfig) -> String {
    let now = serde_yaml::to_value(&config.lora);
    let (Ok(mut old), Ok(now)) = (serde_yaml::from_str::<serde_yaml::Value>(before), now) else {
        return before.to_string();
    };
    if let Some(serde_yaml::Value::Mapping(lora)) =
        old.get_mut("lora").filter(|_| config.lora.init_from.is_some())
    {
        for key in SHAPE {
            if let Some(value) = now.get(key) {
                lora.insert(key.into(), value.clone());
            }
        }
    }
    serde_yaml::to_string(&old).unwrap_or_else(|_| before.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_continued_adapter_is_no_change_of_a_run() {
        let mut old = RunConfig::new("b", "d");
        old.lora.init_from = Some("a".into());
        let mut now = old.clone();
        let shape = LoraConfig { r: 4, lora_alpha: 8.0, use_rslora: true, ..LoraConfig::default() };
        adopt(&mut now.lora, &shape);
        assert_eq!((now.lora.r, now.lora.lora_alpha, now.lora.use_rslora), (4, 8.0, true));
        assert_eq!(now.lora.init_from, old.lora.init_from, "the other keys stay");
        let before = old.to_yaml().unwrap();
        assert!(now.compare_for_resume(&before).is_err());
        assert_eq!(now.compare_for_resume(&noted(&before, &now)).unwrap(), Vec::<String>::new());
        now.seed = 7;
        assert!(now.compare_for_resume(&noted(&before, &now)).is_err(), "another change is one");
        // A new adapter has the shape that its configuration says.
        old.lora.init_from = None;
        let mut other = old.clone();
        other.lora.r = 4;
        assert!(other.compare_for_resume(&noted(&old.to_yaml().unwrap(), &other)).is_err());
    }
}
