//! `config.json` of a merged model, readable by transformers before and after version 5.

use serde_json::{Map, Value, json};

use crate::weights::DType;

/// Updates `config` and its parts: the storage type if it changed, and the rotary settings under both their names, since
/// transformers 5 writes only `rope_parameters` and mistral.rs reads only `rope_theta`.
pub(super) fn update(config: &mut Map<String, Value>, dtype: Option<DType>) {
    if let Some(dtype) = dtype {
        // `torch_dtype` until transformers 4, and still read by 5.
        if !write_dtype(config, dtype) {
            config.insert("torch_dtype".into(), name(dtype).into());
        }
    }
    if says(config, "model_type", "gemma") && says(config, "hidden_act", "gelu") {
        // transformers 5 computes this for either value; 4 takes it literally.
        config.insert("hidden_act".into(), "gelu_pytorch_tanh".into());
    }
    write_rotation(config);
    // A model with a vision tower has the settings of its parts one level down.
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        write_rotation(text);
    }
    // transformers 4 follows a part's own type.
    for part in ["text_config", "vision_config"] {
        if let (Some(dtype), Some(Value::Object(part))) = (dtype, config.get_mut(part)) {
            write_dtype(part, dtype);
        }
    }
}

fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    }
}

/// The type under the names that exist; whether any does.
fn write_dtype(config: &mut Map<String, Value>, dtype: DType) -> bool {
    let mut is_said = false;
    for key in ["dtype", "torch_dtype"] {
        if let Some(said) = config.get_mut(key) {
            *said = name(dtype).into();
            is_said = true;
        }
    }
    is_said
}

fn write_rotation(config: &mut Map<String, Value>) {
    let object =
        |key: &str| config.get(key).and_then(Value::as_object).filter(|map| !map.is_empty()).cloned();
    match (object("rope_scaling"), object("rope_parameters")) {
        // transformers 4 knows only the old name, and 5 prefers it: so its value continues to count.
        (Some(_), Some(parameters)) if !is_by_kind(&parameters) => {
            config.shift_remove("rope_parameters");
            write_new_name(config);
        }
        (_, Some(parameters)) => write_old_names(config, parameters),
        (_, None) => write_new_name(config),
    }
}

fn says(config: &Map<String, Value>, key: &str, text: &str) -> bool {
    config.get(key).is_some_and(|it| it == text)
}

fn is_absent(config: &Map<String, Value>, key: &str) -> bool {
    config.get(key).is_none_or(Value::is_null)
}

/// Gemma 3 has settings for each kind of layer.
fn is_by_kind(parameters: &Map<String, Value>) -> bool {
    parameters.values().any(Value::is_object)
}

/// `rope_theta`, `rope_scaling` and other keys of the top level, made from `rope_parameters`.
fn write_old_names(config: &mut Map<String, Value>, parameters: Map<String, Value>) {
    let old = |config: &mut Map<String, Value>, key: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|_| is_absent(config, key)) {
            config.insert(key.into(), value);
        }
    };
    let part = |kind: &str| parameters.get(kind).and_then(Value::as_object).cloned();
    if is_by_kind(&parameters) {
        // The old names describe the layers with full attention; the others have their own base, and no scaling.
        let local = part("sliding_attention").and_then(|mut of| of.shift_remove("rope_theta"));
        old(config, "rope_local_base_freq", local);
    }
    let mut settings =
        if is_by_kind(&parameters) { part("full_attention").unwrap_or_default() } else { parameters };
    let theta = settings.shift_remove("rope_theta");
    old(config, "rope_theta", theta);
    let partial = settings.shift_remove("partial_rotary_factor");
    old(config, "partial_rotary_factor", partial);
    if says(config, "model_type", "phi3") {
        // transformers 4 accepts only `type` and the two lists of factors, and the length at the top.
        let original = settings.shift_remove("original_max_position_embeddings");
        old(config, "original_max_position_embeddings", original);
        if let Some(kind) = settings.shift_remove("rope_type") {
            settings.insert("type".into(), kind);
        }
    }
    let kind = settings.get("rope_type").or(settings.get("type"));
    // Qwen's models for images split positions by `mrope_section`, under `default` too, and transformers 4 fails without it.
    if kind.is_some_and(|kind| kind != "default") || settings.contains_key("mrope_section") {
        old(config, "rope_scaling", Some(settings.into()));
    }
}

/// `rope_parameters`, made from `rope_theta` and `rope_scaling`.
fn write_new_name(config: &mut Map<String, Value>) {
    // These have the new form for each kind of layer, and transformers 5 makes it from the old names.
    if is_absent(config, "rope_theta")
        || ["gemma3_text", "olmo3"].iter().any(|kind| says(config, "model_type", kind))
    {
        return;
    }
    let scaling = config.get("rope_scaling").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut parameters = Map::new();
    // `type` is the earlier name of `rope_type`.
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

    /// Both versions of transformers use `rope_scaling` if both names exist, and their default theta if the top level
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

    /// Before transformers 5 the text part of a model with a vision tower knew only the old names.
    #[test]
    fn rotary_settings_of_a_wrappers_text_stand_under_both_names() {
        let text = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e3}});
        let mut both = text.clone();
        both["rope_theta"] = json!(5e3);
        assert_eq!(updated(json!({"text_config": text}), None), json!({"text_config": both}));
        let split = json!({"rope_type": "default", "mrope_section": [1, 1, 2]});
        let mut parameters = split.clone();
        parameters["rope_theta"] = json!(5e3);
        let updated_split = updated(json!({"text_config": {"rope_parameters": parameters}}), None);
        assert_eq!(updated_split["text_config"]["rope_scaling"], split);
        let old = json!({"rope_theta": 5e3, "rope_scaling": null});
        assert_eq!(
            updated(json!({"text_config": old}), None)["text_config"]["rope_parameters"],
            text["rope_parameters"]
        );
        // hostile shapes are left alone
        assert_eq!(updated(json!({"text_config": [1]}), None), json!({"text_config": [1]}));
    }

    #[test]
    fn phi3s_rotation_is_what_transformers_4_takes() {
        let new = json!({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [2.0],
                         "original_max_position_embeddings": 32});
        let phi3 = updated(json!({"model_type": "phi3", "rope_parameters": new}), None);
        assert_eq!(
            phi3["rope_scaling"],
            json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]})
        );
        assert_eq!(
            (&phi3["original_max_position_embeddings"], &phi3["rope_theta"]),
            (&json!(32), &json!(1e4))
        );
    }

    /// transformers 5 fails on a single `rope_parameters` of models that have them for each kind of layer.
    #[test]
    fn old_settings_by_kind_of_layer_stay_as_they_are() {
        let old = json!({"model_type": "olmo3", "rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}});
        assert_eq!(updated(old.clone(), None), old);
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
        let parts = |kind: &str| {
            json!({"dtype": kind, "text_config": {"dtype": kind},
                   "vision_config": {"torch_dtype": kind, "depth": 1}})
        };
        assert_eq!(updated(parts("float32"), bf16), parts("bfloat16"));
        assert_eq!(
            updated(json!({"dtype": "float32", "text_config": {}}), bf16),
            json!({"dtype": "bfloat16", "text_config": {}})
        );
    }
}
