//! The keys of `adapter_config.json`. Each key of PEFT is read, or is known not to change what the adapter computes, or is
//! refused unless its value switches nothing on.
//!
//! The fields are those of PEFT 0.21's `LoraConfig` (`tests/fixtures/peft_lora_config.json`, written from PEFT itself) and two
//! that PEFT 0.2 wrote.

use serde_json::{Map, Value};

use crate::error::Problems;

/// How a key is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// [`super::PeftConfig`] or [`super::select`] reads it.
    Read,
    /// It does not change what the adapter computes, and why.
    Harmless(&'static str),
    /// Null, false, an empty list or string, or this string; any other value requests this feature.
    Neutral(&'static str, &'static str),
}

use Meaning::{Harmless, Neutral, Read};

/// Every key, sorted.
pub(super) const KEYS: &[(&str, Meaning)] = &[
    ("alora_invocation_tokens", Neutral("", "activation from a token on (aLoRA)")),
    ("alpha_pattern", Read),
    ("arrow_config", Neutral("", "routing between adapters (Arrow)")),
    ("auto_mapping", Harmless("it names the class of the base, whose modules the tensors name too")),
    ("base_model_name_or_path", Read),
    ("bias", Neutral("none", "trained biases")),
    (
        "corda_config",
        Harmless("how matrices are initialised; init_lora_weights says whether the base was changed"),
    ),
    ("enable_lora", Neutral("", "adapters of parts of a stacked projection (PEFT 0.2)")),
    ("ensure_weight_tying", Read),
    ("eva_config", Harmless("how matrices are initialised")),
    ("exclude_modules", Read),
    (
        "fan_in_fan_out",
        Harmless("PEFT corrects it by the class of each module; A and B have one shape either way"),
    ),
    ("inference_mode", Harmless("whether the matrices train")),
    ("init_lora_weights", Read),
    ("kasa_config", Neutral("", "a truncated base and learned singular values (KaSA)")),
    ("layer_replication", Neutral("", "a base with repeated layers")),
    ("layers_pattern", Read),
    ("layers_to_transform", Read),
    (
        "loftq_config",
        Harmless("how matrices are initialised; init_lora_weights says whether the base was changed"),
    ),
    ("lora_alpha", Read),
    ("lora_bias", Neutral("", "biases of lora_B")),
    ("lora_dropout", Read),
    (
        "lora_ga_config",
        Harmless("how matrices are initialised; init_lora_weights says whether the base was changed"),
    ),
    ("megatron_config", Neutral("", "modules of Megatron")),
    ("megatron_core", Harmless("it is used with megatron_config only")),
    ("merge_weights", Harmless("PEFT 0.2: whether the weights were merged for inference")),
    ("modules_to_save", Read),
    ("monteclora_config", Neutral("", "matrices sampled at random (MonteCLoRA)")),
    ("peft_type", Read),
    ("peft_version", Harmless("who wrote it")),
    ("qalora_group_size", Harmless("it is used with use_qalora only")),
    ("r", Read),
    ("rank_pattern", Read),
    ("revision", Harmless("where the base was found")),
    ("runtime_config", Harmless("PEFT ignores it in a file")),
    ("target_modules", Read),
    ("target_parameters", Neutral("", "adapters of parameters that are not linear modules")),
    ("task_type", Read),
    ("trainable_token_indices", Read),
    ("use_bdlora", Neutral("", "block-diagonal matrices (BD-LoRA)")),
    ("use_dora", Read),
    ("use_qalora", Neutral("", "QA-LoRA's pooled input")),
    ("use_rslora", Read),
    ("velora_config", Neutral("", "projections of the backward pass beside the low-rank matrices (VeLoRA)")),
];

/// Every key of PEFT's `PrefixTuningConfig`, sorted.
pub(super) const PREFIX_KEYS: &[(&str, Meaning)] = &[
    ("auto_mapping", Harmless("it names the class of the base")),
    ("base_model_name_or_path", Read),
    ("encoder_hidden_size", Harmless("the file holds what the projection gives")),
    ("inference_mode", Harmless("whether the prefix trains")),
    ("init_weights", Harmless("how the prefix is initialised")),
    ("modules_to_save", Neutral("", "whole modules trained beside the prefix")),
    ("num_attention_heads", Read),
    ("num_layers", Read),
    ("num_transformer_submodules", Read),
    ("num_virtual_tokens", Read),
    ("peft_type", Read),
    ("peft_version", Harmless("who wrote it")),
    ("prefix_projection", Harmless("the file holds what the projection gives")),
    ("revision", Harmless("where the base was found")),
    ("task_type", Read),
    ("token_dim", Read),
];

/// Every key of adapter layers, sorted; PEFT has no such adapter.
pub(super) const LAYER_KEYS: &[(&str, Meaning)] = &[
    ("base_model_name_or_path", Read),
    ("bottleneck_size", Read),
    ("inference_mode", Harmless("whether the layers train")),
    ("lora_dropout", Read),
    ("non_linearity", Read),
    ("peft_type", Read),
    ("target_modules", Read),
    ("task_type", Read),
];

/// How a key of this kind of adapter is treated; `None` if PEFT 0.21 has no such key.
pub(super) fn meaning(keys: &[(&str, Meaning)], key: &str) -> Option<Meaning> {
    keys.binary_search_by(|(known, _)| (*known).cmp(key)).ok().map(|at| keys[at].1)
}

/// Initialisations that do not change the base: the saved adapter is a plain one. PEFT reads the first two in any case.
const INITS: &[&str] = &["gaussian", "mica", "eva", "orthogonal"];

/// Prefixes of initialisations that subtract the product of the matrices from the base's weights. PEFT does so again whenever
/// it loads such an adapter, except for LoRA-GA, whose gradients no longer exist then.
const INITS_THAT_CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Names every key that needs an unsupported feature, and every unknown key. An unknown key becomes a note instead if it is
/// null, which switches nothing on, or if it is `forced`.
pub(super) fn check(
    keys: &[(&str, Meaning)],
    values: &Map<String, Value>,
    forced: bool,
    notes: &mut Vec<String>,
    problems: &mut Problems,
) {
    for (key, value) in values {
        match meaning(keys, key) {
            Some(Read | Harmless(_)) => {}
            Some(Neutral(allowed, what)) => problems.require(is_neutral(value, allowed), || {
                format!("{key} is {}, which needs {what}; that is not supported", brief(value))
            }),
            None if value.is_null() || forced => {
                notes.push(format!("{} is a key that PEFT 0.21 does not have; it is ignored", brief_text(key)));
            }
            None => problems.add(format!(
                "{} is {}, and PEFT 0.21 has no such key: what it changes is not known; remove it if it changes nothing, or \
                 insist with --force where there is such a flag",
                brief_text(key),
                brief(value)
            )),
        }
    }
    check_init(values.get("init_lora_weights").unwrap_or(&Value::Null), problems);
}

fn check_init(init: &Value, problems: &mut Problems) {
    match init {
        Value::Null | Value::Bool(_) => {}
        Value::String(name) => {
            let lower = name.to_lowercase();
            let changes = INITS_THAT_CHANGE_THE_BASE.iter().any(|start| lower.starts_with(start));
            if changes {
                problems.add(format!(
                    "init_lora_weights is {}, which changes the base weights too; convert the adapter with PEFT: \
                     save_pretrained(..., path_initial_model_for_weight_conversion=...)",
                    brief(init)
                ));
            } else if !INITS.contains(&name.as_str()) && !INITS[..2].contains(&lower.as_str()) {
                problems.add(format!(
                    "init_lora_weights is {}, which PEFT 0.21 does not have; known are true, false, {}",
                    brief(init),
                    INITS.join(", ")
                ));
            }
        }
        _ => problems.add(format!("init_lora_weights is {}; it is true, false or a name", brief(init))),
    }
}

/// Whether PEFT initialises modules that the file leaves out with random numbers whose product is not 0.
pub(super) fn init_is_random(values: &Map<String, Value>) -> bool {
    match values.get("init_lora_weights") {
        Some(Value::Bool(false) | Value::Null) => true,
        Some(Value::String(name)) => name == "orthogonal",
        _ => false,
    }
}

fn is_neutral(value: &Value, allowed: &str) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty() || s == allowed,
        Value::Array(a) => a.is_empty(),
        // An empty configuration means the defaults, and switches the feature on (`_get_lora_subconfig`).
        _ => false,
    }
}

/// A value for a message, shortened.
fn brief(value: &Value) -> String {
    brief_text(&value.to_string())
}

fn brief_text(text: &str) -> String {
    super::super::names::shown(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_come_once() {
        assert!(KEYS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    fn problems_of(config: Value, forced: bool) -> (String, Vec<String>) {
        let (mut notes, mut problems) = (Vec::new(), Problems::default());
        check(KEYS, config.as_object().unwrap(), forced, &mut notes, &mut problems);
        (problems.finish().map_or_else(|e| e.to_string(), |()| String::new()), notes)
    }

    #[test]
    fn initialisations_that_change_the_base_are_refused_and_no_others() {
        for name in ["pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new"]
        {
            let (said, _) = problems_of(json!({"init_lora_weights": name}), true);
            assert!(said.contains("init_lora_weights") && said.contains(name), "{name}: {said}");
        }
        for init in [
            json!(true),
            json!(false),
            json!(null),
            json!("gaussian"),
            json!("eva"),
            json!("mica"),
            json!("orthogonal"),
        ] {
            assert_eq!(problems_of(json!({"init_lora_weights": init}), false).0, "", "{init}");
        }
        assert!(problems_of(json!({"init_lora_weights": 3}), false).0.contains("is 3"));
    }

    #[test]
    fn an_unknown_key_is_an_error_or_a_note() {
        let (said, notes) = problems_of(json!({"use_new_thing": true, "r": 4}), false);
        assert!(said.contains("use_new_thing is true") && notes.is_empty(), "{said}");
        for (config, forced) in
            [(json!({"use_new_thing": true}), true), (json!({"use_new_thing": null}), false)]
        {
            let (said, notes) = problems_of(config, forced);
            assert!(
                said.is_empty() && notes.len() == 1 && notes[0].contains("use_new_thing"),
                "{said} {notes:?}"
            );
        }
    }
}
