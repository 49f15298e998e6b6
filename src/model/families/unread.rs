//! Keys of a `config.json` that no family reads: they are refused by name, unless they cannot change what the model
//! computes.

use serde_json::{Map, Value};

use super::class;
use super::json::ConfigJson;
use crate::error::{Error, Problems, Result};

/// Keys that cannot change a forward pass, grouped by the reason. The keys of `_common` in `defaults.json` are also
/// harmless: fields that every class has, and generation settings.
const HARMLESS: &[(&str, &[&str])] = &[
    (
        "dropout: the base is frozen and never drops",
        &[
            "activation_dropout",
            "attention_dropout",
            "attention_probs_dropout_prob",
            "attn_dropout",
            "attn_pdrop",
            "classifier_dropout",
            "dropout",
            "embd_dropout",
            "embd_pdrop",
            "embedding_dropout",
            "hidden_dropout",
            "hidden_dropout_prob",
            "layerdrop",
            "resid_dropout",
            "resid_pdrop",
            "residual_dropout",
        ],
    ),
    (
        "initial values of weights that are not stored: all weights here are",
        &["init_method", "init_std", "initializer_range", "rescale_layer"],
    ),
    (
        "token ids: they change which text is made, not what the model computes",
        &[
            "begin_of_document_token_id",
            "boi_token_id",
            "boi_token_index",
            "bos_token",
            "bos_token_id",
            "cls_token_id",
            "decoder_start_token_id",
            "eod_token_id",
            "eoi_token_id",
            "eoi_token_index",
            "eos_token",
            "eos_token_id",
            "im_end_id",
            "im_start_id",
            "image_token_id",
            "image_token_index",
            "mask_token_id",
            "pad_id",
            "pad_token",
            "pad_token_id",
            "prefix",
            "sep_token_id",
            "unk_token",
            "unk_token_id",
            "video_token_id",
            "vision_end_token_id",
            "vision_start_token_id",
            "vision_token_id",
        ],
    ),
    (
        "how a program computes or stores, not what",
        &[
            "cache_implementation",
            "attention_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_flash_attn_2_enabled",
            "_experts_implementation",
            "attn_implementation",
            "gradient_checkpointing",
            "is_llama_config",
            "output_attentions",
            "output_hidden_states",
            "output_router_logits",
            "pretraining_tp",
            "reorder_and_upcast_attn",
            "sequence_parallel",
            "tensor_parallel",
            "torchscript",
            "tp_parallel",
            "use_bfloat16",
            "use_cache",
            "use_flash_attn",
            "use_flash_attention",
            "use_flash_attention_2",
            "use_fused_rms_norm",
            "use_fused_mlp",
            "use_cache_quantization",
            "use_memory_efficient_attention",
            "use_sdpa",
            "use_triton",
        ],
    ),
    (
        "names of things, and where the file came from",
        &[
            "_class_name",
            "_from_model_config",
            "_model_name_or_path",
            "_name_or_path",
            "architectures",
            "auto_map",
            "base_model",
            "custom_pipelines",
            "finetuning_task",
            "license",
            "model_name",
            "model_type",
            "model_version",
            "name",
            "name_or_path",
            "original_architecture",
            "task_specific_params",
            "tokenizer_class",
            "trust_remote_code",
            "transformers.js_config",
            "transformers_version",
            "unsloth_fixed",
            "unsloth_version",
            "version",
        ],
    ),
    (
        "heads for other tasks than language modelling",
        &[
            "classifier_bias",
            "embedding_size",
            "id2label",
            "label2id",
            "num_labels",
            "pad_cls_token_id",
            "pool_type",
            "problem_type",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "tf_legacy_loss",
        ],
    ),
    (
        "lengths that tokenizers, training and generation used",
        &[
            "max_new_tokens",
            "max_sequence_length",
            "min_new_tokens",
            "n_ctx",
            "model_max_length",
            "seq_length",
            "tokenizer_max_length",
        ],
    ),
    ("the storage type: that of the tensors counts", &["dtype", "torch_dtype"]),
];

/// Keys that change the computation when they are false.
const TRUE_WHEN_ABSENT: &[&str] = &["is_causal", "return_dict"];

/// Returns why a key cannot change a forward pass, or `None` if it might.
pub(super) fn harmless(key: &str) -> Option<&'static str> {
    let listed = HARMLESS.iter().find(|(_, keys)| keys.contains(&key)).map(|(why, _)| *why);
    listed.or_else(|| class::is_common(key).then_some("it is known to every class of transformers"))
}

impl ConfigJson {
    /// Refuses all keys that were not read and are not harmless, in one error; with `force`, adds notes instead. A
    /// value of null or false, or one equal to the class's default for a missing key, has no effect.
    ///
    /// # Errors
    /// If there are any such keys.
    pub(super) fn check_all_read(&self) -> Result<()> {
        let mut found = Vec::new();
        self.unread(&self.values, &self.path, true, &mut found);
        let mut problems = Problems::default();
        for (path, value) in &found {
            let text = format!(
                "is {}, and is not understood: it could change what the model computes",
                shown(value)
            );
            match self.force {
                true => self.note(path, &text),
                false => problems.add(self.error(path, &text).to_string()),
            }
        }
        self.seen.borrow_mut().checked.insert(self.path.clone());
        if !found.is_empty() && !self.force {
            problems.add(
                "remove what has no effect from config.json, or insist with --force to compute without it",
            );
        }
        problems.finish().map_err(|e| Error::Model(e.to_string()))
    }

    fn unread(&self, values: &Map<String, Value>, path: &str, own: bool, found: &mut Vec<(String, Value)>) {
        let seen = self.seen.borrow();
        for (key, value) in values {
            let full = format!("{path}{key}");
            if seen.checked.contains(&format!("{full}.")) {
                continue;
            }
            if let (true, Some(inner)) = (seen.opened.contains(&format!("{full}.")), value.as_object()) {
                self.unread(inner, &format!("{full}."), false, found);
                continue;
            }
            let neutral = match value {
                // A missing key means true.
                Value::Bool(given) if TRUE_WHEN_ABSENT.contains(&key.as_str()) => *given,
                Value::Null | Value::Bool(false) => true,
                Value::Object(inner) if inner.is_empty() => true,
                Value::Array(inner) if inner.is_empty() => true,
                // Most classes have no layer types; all their layers are of this type.
                Value::Array(inner) if key == "layer_types" => {
                    inner.iter().all(|kind| kind.as_str() == Some("full_attention"))
                }
                _ => own && self.class.and_then(|class| class.default(key)) == Some(value),
            };
            let expected = TRUE_WHEN_ABSENT.contains(&key.as_str());
            let harmless = if expected { None } else { harmless(key) };
            if !neutral && !seen.read.contains(&full) && harmless.is_none() {
                found.push((full[self.path.len()..].to_string(), value.clone()));
            }
        }
    }

    /// Refuses values whose type differs from the class's, and keys that disagree with their alternative names.
    ///
    /// # Errors
    /// If there are any.
    pub(super) fn check_types(&self) -> Result<()> {
        let Some(class) = self.class else { return Ok(()) };
        let mut problems = Problems::default();
        for (key, value) in &self.values {
            let is_share = |key: &str| HARMLESS[0].1.contains(&key) || key == "initializer_range";
            let null = value.is_null() && class.default(key).is_some();
            if is_share(key) && (null || value.as_f64().is_some_and(|x| !(0.0..=1.0).contains(&x))) {
                problems.add(self.error(key, &format!("is {value}, expected from 0 to 1")).to_string());
            }
            if let Some(types) = class.misfit(key, value) {
                problems.add(
                    self.error(key, &format!("is {}, expected {}", shown(value), types.replace('|', " or ")))
                        .to_string(),
                );
            }
        }
        for (other, field) in class.all_names() {
            if let (Some(a), Some(b)) = (self.values.get(other), self.values.get(field))
                && a != b
            {
                let text = format!("is {}, but {field}, its other name, is {}; keep one", shown(a), shown(b));
                problems.add(self.error(other, &text).to_string());
            }
        }
        problems.finish().map_err(|e| Error::Model(e.to_string()))
    }
}

/// Formats a value as JSON, shortened if it is too long to display.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_given_once_and_no_key_twice() {
        let mut keys: Vec<&str> = HARMLESS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(harmless("use_cache"), Some("how a program computes or stores, not what"));
        assert!(harmless("attention_bias").is_none());
    }
}
