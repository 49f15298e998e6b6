//! `config.json` of a merged model: readable by programs of before and after transformers 5.

use serde_json::{Map, Value, json};

use crate::weights::DType;

/// Brings `config` up to date: the storage type if it changed, and the rotary settings under both their names, since
/// transformers 5 writes `rope_parameters` alone and mistral.rs reads `rope_theta` alone.
pub(super) fn update(config: &mut Map<String, Value>, dtype: Option<DType>) {
    if let Some(dtype) = dtype {
        let name = match dtype {
            DType::F32 => "float32",
            DType::Bf16 => "bfloat16",
            DType::F16 => "float16",
        };
        // `torch_dtype` until transformers 4, and still read by 5.
        let mut keys = vec!["dtype", "torch_dtype"];
        keys.retain(|key| config.contains_key(*key));
        for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
            config.insert(key.into(), name.into());
        }
    }
    let is =
        |config: &Map<String, Value>, key: &str, text: &str| config.get(key).is_some_and(|it| it == text);
    if is(config, "model_type", "gemma") && is(config, "hidden_act", "gelu") {
        // What transformers 5 computes whichever stands there; 4 takes it by the word.
        config.insert("hidden_act".into(), "gelu_pytorch_tanh".into());
    }
    let object =
        |key: &str| config.get(key).and_then(Value::as_object).filter(|map| !map.is_empty()).cloned();
    match (object("rope_scaling"), object("rope_parameters")) {
        // transformers 4 knows the old name alone, and 5 prefers it, whatever stands beside it: its word goes on counting.
        (Some(_), Some(parameters)) if !is_by_kind(&parameters) => {
            config.shift_remove("rope_parameters");
            write_new_name(config);
        }
        (_, Some(parameters)) => write_old_names(config, parameters),
        (_, None) => write_new_name(config),
    }
}

fn is_absent(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).is_none_or(Value::is_null)
}

/// Gemma 3 has settings by kind of layer.
fn is_by_kind(parameters: &Map<String, Value>) -> bool {
    parameters.values().any(Value::is_object)
}

/// `rope_theta`, `rope_scaling` and what else stood at the top, out of `rope_parameters`.
fn write_old_names(config: &mut Map<String, Value>, parameters: Map<String, Value>) {
    let old = |config: &mut Map<String, Value>, key: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|_| is_absent(config, key)) {
            config.insert(key.into(), value);
        }
    };
    let part = |kind: &str| parameters.get(kind).and_then(Value::as_object).cloned();
    if is_by_kind(&parameters) {
        // The old names are of the layers that see everything; the others have a base of their own, and no scaling.
        let local = part("sliding_attention").and_then(|mut of| of.shift_remove("rope_theta"));
        old(config, "rope_local_base_freq", local);
    }
    let mut settings =
        if is_by_kind(&parameters) { part("full_attention").unwrap_or_default() } else { parameters };
    let theta = settings.shift_remove("rope_theta");
    old(config, "rope_theta", theta);
    let partial = settings.shift_remove("partial_rotary_factor");
    old(config, "partial_rotary_factor", partial);
    let kind = settings.get("rope_type").or(settings.get("type"));
    if kind.is_some_and(|kind| kind != "default") {
        old(config, "rope_scaling", Some(settings.into()));
    }
}

/// `rope_parameters` out of `rope_theta` and `rope_scaling`.
fn write_new_name(config: &mut Map<String, Value>) {
    // With Gemma 3's second base the new form is by kind of layer; the old one says it all.
    if is_absent(config, "rope_theta") || !is_absent(config, "rope_local_base_freq") {
        return;
    }
    let scaling = config.get("rope_scaling").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut parameters = Map::new();
    // `type` is what `rope_type` was called first.
    let kind = scaling.get("rope_type").or(scaling.get("type")).cloned().unwrap_or(json!("default"));
    parameters.insert("rope_type".into(), kind);
    parameters.insert("rope_theta".into(), config["rope_theta"].clone());
    if let Some(partial) = config.get("partial_rotary_factor").filter(|partial| partial.is_number()) {
        parameters.insert("partial_rotary_factor".into(), partial.clone());
    }
    parameters.extend(scaling.into_iter().filter(|(key, _)| key != "type" && key != "rope_type"));
    config.insert("rope_parameters".into(), parameters.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(config: Value, dtype: Option<DType>) -> Value {
        let Value::Object(mut config) = config else { panic!("an object expected") };
        update(&mut config, dtype);
        config.into()
    }

    #[test]
    fn rotary_settings_stand_under_both_names() {
        let scaled = json!({"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0});
        assert_eq!(
            updated(json!({"rope_parameters": scaled}), None),
            json!({"rope_parameters": scaled, "rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}})
        );
        assert_eq!(
            updated(json!({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}), None)["rope_parameters"],
            json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})
        );
        let plain = json!({"rope_theta": 5e3, "rope_scaling": null,
                           "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}});
        assert_eq!(updated(json!({"rope_theta": 5e3, "rope_scaling": null}), None), plain);
        assert_eq!(updated(plain.clone(), None), plain);
        let by_kind =
            json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}});
        let gemma = updated(json!({"rope_parameters": by_kind}), None);
        assert_eq!((&gemma["rope_theta"], &gemma["rope_local_base_freq"]), (&json!(1e6), &json!(1e4)));
        assert_eq!(updated(json!({"model_type": "gpt2"}), None), json!({"model_type": "gpt2"}));
        let scaled = json!({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}});
        let gemma = updated(json!({"rope_parameters": scaled}), None);
        assert_eq!(gemma["rope_scaling"], json!({"rope_type": "linear", "factor": 8.0}));
        assert_eq!((&gemma["rope_theta"], &gemma["rope_parameters"]), (&json!(1e6), &scaled));
        let partial = json!({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25});
        assert_eq!(updated(json!({"rope_parameters": partial}), None)["partial_rotary_factor"], 0.25);
        // hostile shapes are left alone
        assert_eq!(updated(json!({"rope_parameters": 3}), None), json!({"rope_parameters": 3}));
    }

    /// Both versions of transformers take `rope_scaling` where both names are there, and their default theta if the top
    /// has none.
    #[test]
    fn the_old_name_beside_the_new_one_goes_on_counting() {
        let (old, new) =
            (json!({"type": "linear", "factor": 4.0}), json!({"rope_type": "default", "rope_theta": 5e5}));
        let without = updated(json!({"rope_scaling": old, "rope_parameters": new}), None);
        assert_eq!(without, json!({"rope_scaling": old}));
        let with = updated(json!({"rope_theta": 3e4, "rope_scaling": old, "rope_parameters": new}), None);
        assert_eq!(with["rope_parameters"], json!({"rope_type": "linear", "rope_theta": 3e4, "factor": 4.0}));
        let empty = updated(json!({"rope_scaling": {}, "rope_parameters": new}), None);
        assert_eq!((&empty["rope_theta"], &empty["rope_parameters"]), (&json!(5e5), &new));
    }

    #[test]
    fn gemmas_first_name_of_its_nonlinearity_is_put_right() {
        let act = |kind: &str| {
            updated(json!({"model_type": kind, "hidden_act": "gelu"}), None)["hidden_act"].clone()
        };
        assert_eq!((act("gemma"), act("gpt_neox")), (json!("gelu_pytorch_tanh"), json!("gelu")));
    }

    #[test]
    fn the_storage_type_is_told_under_the_name_at_hand() {
        let bf16 = Some(DType::Bf16);
        assert_eq!(updated(json!({"dtype": "float32"}), bf16), json!({"dtype": "bfloat16"}));
        assert_eq!(updated(json!({"torch_dtype": "float32"}), bf16), json!({"torch_dtype": "bfloat16"}));
        assert_eq!(updated(json!({}), bf16), json!({"torch_dtype": "bfloat16"}));
        assert_eq!(updated(json!({"dtype": "float32"}), None), json!({"dtype": "float32"}));
    }
}
