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
    match config.get("rope_parameters").and_then(Value::as_object).cloned() {
        Some(parameters) => write_old_names(config, parameters),
        None => write_new_name(config),
    }
}

fn is_absent(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).is_none_or(Value::is_null)
}

/// `rope_theta` and `rope_scaling` out of `rope_parameters`.
fn write_old_names(config: &mut Map<String, Value>, mut parameters: Map<String, Value>) {
    // Gemma 3 has settings by kind of layer; its old names are `rope_theta` and `rope_local_base_freq`.
    for (kind, key) in [("full_attention", "rope_theta"), ("sliding_attention", "rope_local_base_freq")] {
        let theta = parameters.get(kind).and_then(|of| of.get("rope_theta"));
        if let Some(theta) = theta.filter(|_| is_absent(config, key)) {
            config.insert(key.into(), theta.clone());
        }
    }
    let Some(theta) = parameters.remove("rope_theta") else { return };
    if is_absent(config, "rope_theta") {
        config.insert("rope_theta".into(), theta);
    }
    let scaled = parameters.get("rope_type").is_some_and(|kind| kind != "default");
    if scaled && is_absent(config, "rope_scaling") {
        config.insert("rope_scaling".into(), parameters.into());
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
        // hostile shapes are left alone
        assert_eq!(updated(json!({"rope_parameters": 3}), None), json!({"rope_parameters": 3}));
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
