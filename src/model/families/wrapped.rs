//! The text parts of vision-language models: `text_config` belongs to a family of its own, its modules are under
//! `model.language_model`, and the other tensors of the checkpoint are known by name and ignored.

use super::class::Class;
use super::common;
use super::json::ConfigJson;
use crate::error::Result;
use crate::model::spec::{DecoderSpec, Layout};

/// A model that contains a text model.
pub(super) struct Wrapper {
    /// Layouts of its checkpoints, in addition to its own.
    layouts: &'static [Layout],
    /// Tensor prefixes of its other parts.
    elsewhere: &'static [&'static str],
    /// Keys of its other parts and of their connection to the text part.
    others: &'static [&'static str],
    /// Refuses settings that transformers does not compute in the text part.
    check: fn(&ConfigJson) -> Result<()>,
}

/// The layout that transformers wrote until 4.51, and writes again since 5.
const LLAVA: Layout =
    &[("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")];
/// The layout of Qwen 2.5 VL's files on the Hub.
const FLAT: Layout = &[("model.language_model.", "model.")];

pub(super) const GEMMA3: Wrapper = Wrapper {
    layouts: &[LLAVA],
    elsewhere: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
    others: &["vision_config", "mm_tokens_per_image"],
    check: no_soft_cap,
};
pub(super) const MISTRAL3: Wrapper = Wrapper {
    others: &[
        "vision_config",
        "projector_hidden_act",
        "vision_feature_layer",
        "multimodal_projector_bias",
        "spatial_merge_size",
    ],
    check: anything,
    ..GEMMA3
};
pub(super) const QWEN_VL: Wrapper = Wrapper {
    layouts: &[FLAT],
    elsewhere: &["visual.", "model.visual."],
    others: &["vision_config"],
    check: anything,
};

#[expect(clippy::unnecessary_wraps, reason = "as the other check")]
fn anything(_: &ConfigJson) -> Result<()> {
    Ok(())
}

fn no_soft_cap(config: &ConfigJson) -> Result<()> {
    if let Some(text) = config.part("text_config") {
        let key = "final_logit_softcapping";
        if text.number_or_none(key)?.is_some() {
            text.refuse(key, "is not computed by transformers' Gemma 3 with images; remove it")?;
        }
    }
    Ok(())
}

impl Wrapper {
    /// Returns the text part's configuration and its `model_type`.
    ///
    /// # Errors
    /// If the text part is missing, contradicts its class, or other parts are missing.
    pub(super) fn text(&self, config: &ConfigJson) -> Result<(ConfigJson, String)> {
        (self.check)(config)?;
        self.others.iter().for_each(|key| config.mark(key));
        check_others(config)?;
        text_config(config)
    }

    /// Returns the specification of the whole model, given that of its text model.
    ///
    /// # Errors
    /// If a key of the text part was not read, or contradicts a top-level key.
    pub(super) fn around(
        &self,
        config: &ConfigJson,
        text: &ConfigJson,
        mut spec: DecoderSpec,
    ) -> Result<DecoderSpec> {
        tie(config, text, &mut spec)?;
        if !text.path.is_empty() {
            text.check_all_read()?;
        }
        common::rename(&mut spec, |module| match module.strip_prefix("model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => module.to_string(),
        });
        spec.model_type = config.string("model_type")?;
        spec.layouts = self.layouts.to_vec();
        spec.elsewhere = self.elsewhere;
        Ok(spec)
    }
}

/// Checks the vision keys that other programs need to load the model.
fn check_others(config: &ConfigJson) -> Result<()> {
    let vision = config.given("vision_config").and_then(serde_json::Value::as_object);
    if vision.is_none_or(serde_json::Map::is_empty) {
        return Err(config.error("vision_config", "is missing or empty; the model's own config.json has it"));
    }
    // Whatever the values are, they concern only the vision parts.
    for key in ["mm_tokens_per_image", "spatial_merge_size"] {
        if config.values.contains_key(key) {
            config.size(key)?;
        }
    }
    if config.values.contains_key("projector_hidden_act") {
        common::activation(config, "projector_hidden_act")?;
    }
    if config.values.get("image_token_index").is_some_and(serde_json::Value::is_null) {
        return Err(config.error("image_token_index", "is null; name the token of an image"));
    }
    Ok(())
}

/// Returns the text part's configuration, with its class's defaults, and its `model_type`.
fn text_config(config: &ConfigJson) -> Result<(ConfigJson, String)> {
    let sub = config.class.and_then(|class| class.sub_config("text_config"));
    let (part, at_top) = match config.part("text_config") {
        Some(part) => (part, false),
        // Qwen 2.5 VL's files on the Hub have the text part's keys at the top level.
        None if config.given("text_config").is_none() && config.given("hidden_size").is_some() => {
            (config.clone(), true)
        }
        None => return Err(config.error("text_config", "is missing or not an object")),
    };
    if part.values.get("model_type").is_some_and(serde_json::Value::is_null) {
        return Err(part.error("model_type", "is null; remove it, or name the text part's"));
    }
    let said = if at_top { None } else { part.string_or_none("model_type")? };
    let fixed = sub.and_then(|sub| sub.fixed.clone());
    if let (Some(said), Some(fixed)) = (&said, &fixed)
        && said != fixed
    {
        return Err(part.error("model_type", &format!("is {said:?}, but the text part is a {fixed}")));
    }
    let default = sub.and_then(|sub| sub.default.clone());
    let model_type = fixed.or(said).or(default).unwrap_or_default();
    if at_top && !model_type.starts_with("qwen") {
        return Err(config.error("text_config", "is missing"));
    }
    let text = match Class::of(&model_type) {
        Some(class) => part.with_class(class),
        None => part,
    };
    text.check_sizes()?;
    if !at_top {
        text.check_types()?;
    }
    Ok((text, model_type))
}

/// Sets whether the head shares the embedding's weight. The top-level key decides, regardless of the text part; for
/// Qwen 2.5 VL either key ties them.
fn tie(config: &ConfigJson, text: &ConfigJson, spec: &mut DecoderSpec) -> Result<()> {
    const KEY: &str = "tie_word_embeddings";
    let stated = config.given(KEY).is_some();
    let mut tied = config.flag(KEY)?;
    if let Some(inner) = text.given(KEY).filter(|_| !text.path.is_empty()) {
        let inner = inner == &serde_json::Value::Bool(true);
        if config.string("model_type")? == "qwen2_5_vl" {
            tied |= inner;
        } else if !stated {
            // The class's default ties, but a stored head that differs is not tied, so the text part's value applies.
            tied &= inner;
        } else if inner != tied {
            let why = format!(
                "is {inner}, but {tied} at the top, which transformers 5 goes by; write the same in both"
            );
            text.refuse(KEY, &why)?;
        }
    }
    spec.tie_is_stated = stated;
    spec.head = None;
    if !tied {
        spec.head = Some(spec.head_linear());
    }
    Ok(())
}
