//! Converts metadata to `config.json`. This inverts llama.cpp's converters (`conversion/*.py`), and fills in missing
//! metadata as its graphs do (`src/models/*.cpp`).

use serde_json::{Map, Value, json};

use super::gemma;
use super::keys::{Keys, located};
use super::sizes::Sizes;
use crate::error::{Error, Result};
use crate::weights::gguf::GgufFile;

/// A family in llama.cpp's terms.
#[derive(Debug)]
pub(super) struct Architecture {
    /// Value of `general.architecture`.
    name: &'static str,
    /// transformers' `model_type`.
    model_type: &'static str,
    /// Name of transformers' class.
    class: &'static str,
    act: &'static str,
    /// Whether the rows of queries and keys are reordered (`LlamaModel.permute` in `conversion/llama.py`).
    pub permutes: bool,
    /// Whether the file may hold divisors of the rotary frequencies, `rope_freqs.weight`.
    pub divides: bool,
    /// Whether the embedding is always the head.
    ties: bool,
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture { ties: true, ..known("gemma", "gemma", "GemmaForCausalLM", GELU) },
    Architecture { ties: true, ..known("gemma2", "gemma2", "Gemma2ForCausalLM", GELU) },
    known("gemma3", "gemma3_text", "Gemma3ForCausalLM", GELU),
    Architecture { permutes: true, divides: true, ..known("llama", "llama", "LlamaForCausalLM", "silu") },
    known("phi3", "phi3", "Phi3ForCausalLM", "silu"),
    known("qwen2", "qwen2", "Qwen2ForCausalLM", "silu"),
    known("qwen3", "qwen3", "Qwen3ForCausalLM", "silu"),
];

const GELU: &str = "gelu_pytorch_tanh";

const fn known(
    name: &'static str,
    model_type: &'static str,
    class: &'static str,
    act: &'static str,
) -> Architecture {
    Architecture { name, model_type, class, act, permutes: false, divides: false, ties: false }
}

/// The architecture that the file names.
pub(super) fn architecture(file: &GgufFile) -> Result<&'static Architecture> {
    let path = file.path().display();
    let metadata = file.metadata();
    if let Some(kind) = located(file, metadata.text("general.type"))?.filter(|kind| *kind != "model") {
        return Err(Error::Model(format!(
            "{path} holds a GGUF {kind}, not a model; name a model as the base"
        )));
    }
    if let Some(parts) = located(file, metadata.integer("split.count"))?.filter(|parts| *parts > 1) {
        return Err(Error::Model(format!(
            "{path} is one of {parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge`"
        )));
    }
    let name = located(file, metadata.text("general.architecture"))?.unwrap_or("");
    ARCHITECTURES.iter().find(|known| known.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        Error::Model(format!(
            "{path} is of the architecture {name:?}, which is not supported as GGUF (supported: {}); use the model's \
             safetensors if its family is supported",
            known.join(", ")
        ))
    })
}

/// Returns the `config.json` that corresponds to the metadata.
pub(super) fn read(file: &GgufFile, architecture: &Architecture) -> Result<Map<String, Value>> {
    let keys = Keys::new(file, architecture.name);
    let has = |tensor: &str| file.find(tensor).is_some();
    let sizes = Sizes::read(&keys)?;
    let Sizes { layers, hidden, heads, head_dim } = sizes;
    let vocab = file.tensor("token_embd.weight")?.shape.first().copied();
    let inner = keys.size_of_layers_or_none("feed_forward_length", layers)?;
    let kv_heads = keys.size_of_layers_or_none("attention.head_count_kv", layers)?;
    let mut config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": keys.required("feed_forward_length", inner)?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": keys.size("context_length")?,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon")?,
        "rope_theta": keys.number_or_none("rope.freq_base")?.unwrap_or(10_000.0),
        "hidden_act": architecture.act,
        "tie_word_embeddings": architecture.ties || !has("output.weight"),
        "torch_dtype": "bfloat16",
    });
    if let Some(scaling) = rope_scaling(&keys)? {
        config["rope_scaling"] = scaling;
    }
    let turned = keys.size_or_none("rope.dimension_count")?.unwrap_or(head_dim);
    if turned != head_dim {
        config["partial_rotary_factor"] = json!(turned as f64 / head_dim as f64);
    }
    check(&keys, head_dim, turned)?;
    token_ids(file, &mut config)?;
    match architecture.name {
        "llama" => {
            config["attention_bias"] = biases(&keys)?.into();
            config["mlp_bias"] = has("blk.0.ffn_up.bias").into();
        }
        "qwen2" | "qwen3" => config["use_sliding_window"] = false.into(),
        "phi3" => {
            // Phi-3 was trained with it, and transformers computes it; llama.cpp reads it, but leaves it out.
            let window = keys.size_or_none("attention.sliding_window")?.filter(|window| *window > 0);
            config["sliding_window"] = window.into();
        }
        _ => gemma::read(&keys, &mut config, &sizes)?,
    }
    keys.check_all_read()?;
    match config {
        Value::Object(config) => Ok(config),
        _ => Ok(Map::new()),
    }
}

fn token_ids(file: &GgufFile, config: &mut Value) -> Result<()> {
    for (key, id) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let id = located(file, file.metadata().integer(&format!("tokenizer.ggml.{id}_token_id")))?;
        // Null where there is none: a class's default is a token of the vocabulary for which it was written.
        config[format!("{key}_token_id")] = id.into();
    }
    Ok(())
}

/// Refuses settings that no `config.json` of these families can express.
fn check(keys: &Keys, head_dim: u64, turned: u64) -> Result<()> {
    if keys.size_or_none("expert_count")?.unwrap_or(0) > 0 {
        return Err(keys.unsupported("expert_count", "mixtures of experts are not supported"));
    }
    if keys.flag_or_none("attention.causal")? == Some(false) {
        let why = "is false: tokens see those after them, as in an encoder, which is not supported";
        return Err(keys.unsupported("attention.causal", why));
    }
    let of_windows = [
        ("attention.key_length_swa", head_dim),
        ("attention.value_length_swa", head_dim),
        ("rope.dimension_count_swa", turned),
    ];
    for (name, usual) in of_windows {
        if let Some(size) = keys.size_or_none(name)?.filter(|size| *size != usual) {
            let why = format!("is {size}, but {usual} without a window; all layers must have the same");
            return Err(keys.unsupported(name, &why));
        }
    }
    Ok(())
}

/// Whether a Llama's attention has biases, which transformers' class has on all four projections or on none.
fn biases(keys: &Keys) -> Result<bool> {
    let has = |name: &str| keys.file.find(&format!("blk.0.{name}.bias")).is_some();
    let (inner, output) = (has("attn_q"), has("attn_output"));
    if inner == output {
        return Ok(inner);
    }
    let [there, missing] = if inner { ["attn_q", "attn_output"] } else { ["attn_output", "attn_q"] };
    Err(Error::Model(format!(
        "{} has blk.0.{there}.bias but no blk.0.{missing}.bias; a Llama of transformers has biases on all projections of \
         attention or on none, so this one is not supported",
        keys.file.path().display()
    )))
}

/// Reads the rotary scaling as `llama_hparams` and `llama_context` do (`src/llama-model.cpp`, `src/llama-context.cpp`).
/// For these architectures they read none of yarn's settings `yarn_beta_fast`, `yarn_beta_slow` and `yarn_attn_factor`:
/// they always compute with 32, 1 and 1, whatever the file sets, and so does this code.
fn rope_scaling(keys: &Keys) -> Result<Option<Value>> {
    if keys.file.find("rope_factors_long.weight").is_some() {
        return Err(keys.unsupported("rope.scaling.type", "the rotary scaling longrope is not supported"));
    }
    // The second is the key's older name.
    let [factor, older] = ["rope.scaling.factor", "rope.scale_linear"].map(|name| keys.number_or_none(name));
    let factor = factor?.or(older?).filter(|factor| *factor != 0.0);
    let original = keys.size_or_none("rope.scaling.original_context_length")?;
    let attention = keys.number_or_none("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let kind = keys.text_or_none("rope.scaling.type")?.unwrap_or("linear");
    if kind != "yarn" && attention != 1.0 {
        return Err(keys.unsupported(
            "rope.scaling.attn_factor",
            "a factor of cosine and sine is supported for yarn only",
        ));
    }
    Ok(match kind {
        "none" => None,
        "linear" => {
            let scales = factor.filter(|factor| *factor != 1.0);
            scales.map(|factor| json!({"rope_type": "linear", "factor": factor}))
        }
        "yarn" => {
            let factor = factor.unwrap_or(1.0);
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            if keys.architecture == "gemma3" && (attention != 1.0 || factor < 1.0) {
                let name = if factor < 1.0 { "rope.scaling.factor" } else { "rope.scaling.attn_factor" };
                let why = "it would apply to the layers with a window too, which no config.json can express";
                return Err(keys.unsupported(name, why));
            }
            if attention != 1.0 {
                // llama.cpp's value is an extra factor on top of yarn's own, transformers' is their product.
                let own = if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 };
                scaling["attention_factor"] = json!(own * attention);
            }
            Some(scaling)
        }
        other => {
            let why = format!("{other:?} is not supported; known: none, linear, yarn");
            return Err(keys.unsupported("rope.scaling.type", &why));
        }
    })
}
